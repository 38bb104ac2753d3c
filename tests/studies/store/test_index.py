"""The index: what was read of finished trials is not read again, unless it changed."""

import json
import os

import pyarrow.parquet
import pytest
from made_up import answers_worth, commit_result, note_end

from gatera import cli
from gatera.errors import InputError
from gatera.reports import write
from gatera.studies.gathering.finished import read_clusters, read_finished, read_predictions
from gatera.studies.gathering.gather import gather
from gatera.studies.running import report
from gatera.studies.running.report import report_of_run
from gatera.studies.store import index
from gatera.studies.store.index import Contents, details_of
from gatera.studies.store.results import ResultReader
from gatera.studies.store.snapshot import status_of, take_snapshot
from gatera.studies.store.store import Store


@pytest.fixture
def filled(store, plan):
    """A store with every result: items of four digits, a course, and a killed attempt."""
    store.write_plan(plan)
    for n, trial in enumerate(plan.trials):
        if n == 3:
            claim = store.claim(trial.key, {"worker": "killed"})
            claim.release()
            note_end(store, trial.key, 1, "killed", seconds=7.0)
            write_course(store, trial, 1, {1: 3.0, 2: 2.5})
        right = {task: answers_worth(0.5) + [bool(n % 2)] * 4 for task in plan.tasks}
        result = commit_result(store, trial, 0.5, answers=right)
        write_course(store, trial, result.attempt, {2: 2.0, 10: 0.5})
    return store


def write_course(store, trial, attempt, losses):
    lines = [f'{{"step": {step}, "train/loss": {loss}}}\n' for step, loss in losses.items()]
    (store.attempt_folder(trial.key, attempt) / "metrics.jsonl").write_text("".join(lines))


@pytest.fixture
def opened(monkeypatch):
    """The results and scores that were read since this was last emptied."""
    found = []
    read, read_table = ResultReader._read, pyarrow.parquet.read_table

    def read_noted(path, columns):
        # Texts are long, and a page alone needs them: a table that reads them is noted twice.
        found.extend([path] * (("score" in columns) + ("output" in columns)))
        return read_table(path, columns=columns)

    monkeypatch.setattr(ResultReader, "_read", lambda *each: found.append(each) or read(*each))
    monkeypatch.setattr(pyarrow.parquet, "read_table", read_noted)
    return found


def test_what_is_indexed_is_not_read_again_and_is_the_same(filled, plan, opened):
    before = gather(filled, plan)
    assert len(opened) == 2 * len(plan.trials)
    filled.index.save()
    opened.clear()
    again = Store(filled.folder)
    assert gather(again, plan) == before
    assert take_snapshot(again, plan) == take_snapshot(Store(filled.folder), plan)
    assert opened == []
    (resumed,) = [t for row in before.rows for t in row.trials if t.curves.train_loss[0][0] == 1]
    assert resumed.curves.train_loss == ((1, 3.0), (2, 2.0), (10, 0.5))
    assert resumed.seconds == 17.0


def test_values_of_items_are_packed_and_unpacked():
    scores = {"asked": {0: 1.0, 1: 0.0, 2: 1.0}, "cut": {3: 0.0, 11: 1.0}, "texts": {0: 0.25}}
    weighed = {"asked": {0: -0.1, 1: -1e-9, 12: -700.123456}}
    details = json.loads(
        json.dumps(details_of(scores, weighed, {"train/loss": ((1, 0.5), (20, 0.25))}))
    )
    contents = Contents(None, details)
    assert contents.scores == scores
    (found,) = contents.log_probabilities.values()
    assert list(found) == [0, 1, 12]
    assert list(found.values()) == pytest.approx([-0.1, -1e-9, -700.123456], rel=1e-6)
    assert details["scores"]["asked"][1:] == ["digits", "101"]
    assert contents.curve("train/loss") == ((1, 0.5), (20, 0.25))
    assert contents.curve("val/accuracy") == ()


def test_predictions_of_before_there_were_scores_are_read(filled, plan):
    trial = plan.trials[0]
    result = filled.result(trial.key)
    path = filled.predictions_path(trial.key, result.attempt)
    table = pyarrow.parquet.read_table(path, columns=["task", "index", "correct"])
    now = read_predictions(filled, result)
    pyarrow.parquet.write_table(table, path)
    before = read_predictions(filled, result)
    assert before.scores == now.scores
    assert (before.log_probabilities, read_clusters(filled, result)) == ({}, {})


def test_scores_that_are_not_those_of_the_predictions_are_refused(filled, plan):
    trial = plan.trials_of("hira")[1]
    filled.retire_result(trial.key, "older")
    task = plan.tasks[3]
    commit_result(filled, trial, 0.5, metrics={f"test/accuracy/{task}": 0.755})
    with pytest.raises(
        InputError, match=rf"trial {trial.key} says that test/accuracy/{task} is 75.50 %"
    ):
        gather(Store(filled.folder), plan)


def test_a_new_result_is_read_and_the_others_are_not(filled, plan, opened):
    gather(filled, plan)
    filled.index.save()
    key = plan.trials[2].key
    filled.retire_result(key, "older")
    again = Store(filled.folder)
    assert take_snapshot(again, plan).counts["waiting"] == 1
    commit_result(again, plan.trials[2], 1.0)
    opened.clear()
    again = Store(filled.folder)
    record = gather(again, plan)
    assert len(opened) == 2
    assert record == gather_without_index(filled, plan)
    again.index.save()
    opened.clear()
    assert gather(Store(filled.folder), plan) == record
    assert opened == []


def gather_without_index(store, plan):
    path = store.folder / "index.jsonl"
    path.rename(path.with_name("aside"))
    try:
        return gather(Store(store.folder), plan)
    finally:
        path.with_name("aside").rename(path)


def test_a_byte_that_changed_on_the_disk_is_seen_by_whoever_makes_a_table(filled, plan):
    gather(filled, plan)
    filled.index.save()
    for place, path in enumerate(
        (
            filled.result_path(plan.trials[0].key),
            filled.predictions_path(plan.trials[1].key, 1),
        )
    ):
        before = path.stat()
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        trial = plan.trials[place]
        assert status_of(Store(filled.folder), trial).state == "waiting"
        assert Store(filled.folder).damage(trial.key)
        assert status_of(Store(filled.folder, verifies=False), trial).state == "done"
    rows = gather(Store(filled.folder), plan).rows
    assert sum(trial.result is None for row in rows for trial in row.trials) == 2


def test_damage_to_predictions_is_not_covered_up_by_the_index(filled, plan):
    gather(filled, plan)
    filled.index.save()
    trial = plan.trials[1]
    filled.predictions_path(trial.key, 1).write_bytes(b"other")
    for verifies in (True, False):
        again = Store(filled.folder, verifies=verifies)
        assert again.indexed(trial.key) is None
        assert status_of(again, trial).state == "waiting"


def test_a_late_attempt_counts_once_it_has_ended(filled, plan):
    gather(filled, plan)
    filled.index.save()
    trial = plan.trials[4]
    (filled.trial_folder(trial.key) / "claim.2").write_text("{}")
    again = Store(filled.folder)
    assert again.indexed(trial.key) is None
    gather(again, plan)
    again.index.save()  # without this trial's, which is still running
    note_end(filled, trial.key, 2, "interrupted", seconds=5.0)
    rows = gather(Store(filled.folder), plan).rows
    seconds = [t.seconds for row in rows for t in row.trials if t.result.key == trial.key]
    assert seconds == [15.0]


def test_a_trial_without_a_result_has_nothing_to_be_read(store, plan):
    with pytest.raises(LookupError, match="has no result"):
        read_finished(store, plan.trials[0])


def test_a_stale_result_is_indexed_as_one(filled, plan, tmp_path, opened):
    trial = plan.trials_of("hira")[1]
    filled.retire_result(trial.key, "older")
    commit_result(filled, trial, 0.5, training={"code": {"gatera/a.py": "old"}})
    options = {"max_attempts": None, "measured": True, "allow_mixed": False}
    report_of_run(filled, plan, tmp_path / "reports", **options)
    opened.clear()
    status = status_of(Store(filled.folder), trial)
    assert status.state == "stale"
    assert status.reason.startswith("stale: gatera/a.py, gatera/")
    assert status == status_of(without_index(filled), trial)
    assert len(opened) == 1


def without_index(store):
    (store.folder / "index.jsonl").unlink()
    return Store(store.folder)


@pytest.mark.parametrize(
    ("file", "line", "old", "new"),
    [
        ("index.contents.jsonl", 0, '"learning_rate": 0.01', '"learning_rate": 0.03'),
        ("index.contents.jsonl", 5, '"attempt": ', '"attempt": 7'),
        ("index.jsonl", 0, '"shared": "', '"shared": "0'),
        ("index.jsonl", 5, '"entry": [[[', '"entry": [[[1'),
    ],
)
def test_a_damaged_line_is_passed_over(filled, plan, file, line, old, new, opened):
    before = gather(filled, plan)
    filled.index.save()
    path = filled.folder / file
    lines = path.read_text().splitlines()
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new)  # still what JSON can be read from
    path.write_text("\n".join(lines))
    opened.clear()
    again = Store(filled.folder)
    assert gather(again, plan) == before
    assert [status_of(again, trial) for trial in plan.trials] == [
        status_of(filled, trial) for trial in plan.trials
    ]
    assert len(opened) == (2 if line else 2 * len(plan.trials))
    again.index.save()
    opened.clear()
    assert gather(Store(filled.folder), plan) == before
    assert opened == []


def test_contents_of_another_time_are_not_taken_for_a_trials(filled, plan, opened):
    """As a process leaves them that dies between the two files."""
    gather(filled, plan)
    filled.index.save()
    path = filled.folder / "index.contents.jsonl"
    earlier = path.read_bytes()
    filled.retire_result(plan.trials[2].key, "older")
    commit_result(filled, plan.trials[2], 1.0)
    again = Store(filled.folder)
    record = gather(again, plan)
    again.index.save()
    path.write_bytes(earlier)
    opened.clear()
    assert gather(Store(filled.folder), plan) == record
    assert len(opened) == 2  # what has changed, and nothing else


def test_whoever_counts_reads_no_contents(filled, plan, opened):
    gather(filled, plan)
    filled.index.save()
    (filled.folder / "index.contents.jsonl").write_text("not read")
    opened.clear()
    again = Store(filled.folder)
    assert take_snapshot(again, plan).counts["done"] == len(plan.trials)
    assert opened == []
    key = plan.trials[1].key
    assert again.has_result(key)
    assert again.result(key) == filled.result(key)
    assert len(opened) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\x00\n", b"[1]\n"])
def test_what_is_no_index_is_no_hindrance(filled, plan, content):
    before = gather(filled, plan)
    (filled.folder / "index.jsonl").write_bytes(content)
    again = Store(filled.folder)
    assert not again.index.is_there
    assert gather(again, plan) == before
    again.index.save()
    assert Store(filled.folder).index.is_there


def test_what_another_gatera_wrote_is_not_read(filled, plan, monkeypatch, opened):
    gather(filled, plan)
    filled.index.save()
    monkeypatch.setattr(index, "source_sha256", lambda: "another")
    opened.clear()
    gather(Store(filled.folder), plan)
    assert len(opened) == 2 * len(plan.trials)


# The report at the end of a run


@pytest.fixture
def reported(filled, plan, tmp_path, monkeypatch):
    """What writes the report of a run; returns (whether it was drawn, its text)."""
    drawn = []
    original = write.write_report
    monkeypatch.setattr(write, "write_report", lambda *a, **k: drawn.append(1) or original(*a, **k))

    def follow(**options):
        drawn.clear()
        options = {"max_attempts": None, "measured": True, "allow_mixed": False} | options
        made = report_of_run(Store(filled.folder), plan, tmp_path / "reports", **options)
        assert all(path.exists() for path in made.files)
        return bool(drawn), made.markdown

    return follow


def test_a_report_without_news_is_left_alone(reported, filled, plan, tmp_path):
    drawn, text = reported()
    assert drawn
    assert reported() == (False, text)
    path = tmp_path / "reports" / f"{plan.id}.md"
    path.write_text("edited")
    assert reported() == (True, text)
    assert path.read_text() == text
    assert reported() == (False, text)
    drawn, shorter = reported(measured=False)
    assert drawn
    assert len(shorter) < len(text)
    (tmp_path / "reports" / "figures").rename(tmp_path / "gone")
    assert reported(measured=False) == (True, shorter)
    filled.retire_result(plan.trials[2].key, "older")
    drawn, text = reported(measured=False)
    assert drawn
    assert reported(measured=False) == (True, text)  # an unfinished one is always written
    commit_result(filled, plan.trials[2], 0.25)
    assert reported(measured=False)[0]
    assert not reported(measured=False)[0]


def test_a_report_follows_its_plan_and_what_draws_it(reported, filled, plan, monkeypatch):
    reported()
    path = filled.folder / "plans" / f"{plan.id}.json"
    path.write_text(path.read_text().replace("A title", "Another title"))
    assert reported()[0]
    assert not reported()[0]
    monkeypatch.setattr(report.metadata, "version", lambda name: "0")
    assert reported()[0]


def test_a_second_report_command_says_the_same(filled, plan, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made_up.py").write_text(
        "from gatera.studies import Study, Variant\n"
        "STUDY = Study((Variant('hira', changes={'adapter.gate': 'none'}),\n"
        "    Variant('static_gate', changes={'adapter.gate': 'static'}), Variant('gatera')),\n"
        "    reference='gatera', title='A title', seeds=(0, 1, 2))\n"
    )
    arguments = ["report", "./made_up.py", "--store", str(filled.folder)]
    assert cli.main(arguments) == 0
    first = capsys.readouterr().out
    gather(filled, plan)
    filled.index.save()
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == first
