import dataclasses
import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from made_up import commit_result, make_result, note_end

from gatera.errors import InputError
from gatera.studies.store.snapshot import status_of
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import file_sha256
from gatera.training.attempt_files import checkpoint_name

OWNER = {"worker": "w", "host": "h", "pid": 1, "claimed_at": 0.0}


def test_a_store_of_another_format_is_refused_and_left_alone(tmp_path):
    (tmp_path / "format.json").write_text('{"format": 99}\n')
    with pytest.raises(InputError, match="has format 99, this gatera reads format 2"):
        Store(tmp_path, create=True)
    (tmp_path / "format.json").write_text('{"format": 1}\n')
    with pytest.raises(InputError, match=r"made by an earlier gatera .* name another folder"):
        Store(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["format.json"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no store"):
        Store(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_that_was_killed_while_it_was_made_is_gone_on_with(tmp_path):
    (tmp_path / ".format.json-x7").write_text('{"for')
    store = Store(tmp_path, create=True)
    assert store.plan_ids() == []
    (tmp_path / "trials").rmdir()  # killed a moment later
    Store(tmp_path, create=True)
    assert (tmp_path / "trials").is_dir()


def test_a_missing_store_says_how_one_is_made(tmp_path):
    with pytest.raises(InputError, match="`run` makes one"):
        Store(tmp_path / "none")


def test_plans_are_kept_under_their_stem(store, plan):
    store.write_plan(plan)
    assert store.plan_ids() == ["made_up.tiny"]
    assert store.plan("made_up.tiny") == plan
    assert list(store.plan("made_up.tiny").changes) == list(plan.changes)
    with pytest.raises(InputError, match=r"no plan other.tiny in .*it holds made_up.tiny"):
        store.plan("other.tiny")


def test_a_trial_has_one_live_claim(store, plan):
    key = plan.trials[0].key
    first = store.claim(key, OWNER)
    assert first is not None
    assert first.attempt == 1
    assert store.is_running(key)
    assert store.claim(key, OWNER) is None
    first.release()
    assert not store.is_running(key)
    second = store.claim(key, OWNER)
    assert second is not None
    assert second.attempt == 2
    second.release()


def test_of_many_claimers_one_wins(store, plan):
    key = plan.trials[0].key
    barrier, won = threading.Barrier(8), []

    def claim():
        mine = Store(store.folder)
        barrier.wait()
        won.append(mine.claim(key, OWNER))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [claim for claim in won if claim is not None]
    assert len(winners) == 1
    winners[0].release()


def test_the_claim_of_a_killed_process_is_dead(store, plan):
    key = plan.trials[0].key
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from gatera.studies.store.store import Store
        claim = Store(Path({str(store.folder)!r})).claim({key!r}, {{}})
        assert claim is not None
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -9
    assert store.claims.newest(key) == 1
    assert not store.is_running(key)


def write_predictions(store, key, attempt, data=b"late"):
    path = store.predictions_path(key, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return file_sha256(path)


def late_result(store, trial, score, attempt):
    digest = write_predictions(store, trial.key, attempt)
    return dataclasses.replace(
        make_result(trial, score, attempt=attempt), predictions_sha256=digest
    )


def test_a_result_is_written_once_and_a_late_one_compared(store, plan):
    trial = plan.trials[1]
    store.claim(trial.key, OWNER).release()
    first = late_result(store, trial, 0.5, 1)
    assert store.commit(first)
    for attempt, score in ((2, 0.5), (3, 0.9)):
        (store.trial_folder(trial.key) / f"claim.{attempt}").touch()
        late = dataclasses.replace(late_result(store, trial, score, attempt), measured={"t": 9})
        assert not store.commit(late)
    assert store.result(trial.key) == first
    assert store.claim(trial.key, OWNER) is None
    assert store.unequal_attempts(trial.key) == [3]


def test_predictions_that_are_not_the_results_are_not_committed(store, plan):
    trial = plan.trials[1]
    write_predictions(store, trial.key, 1)
    with pytest.raises(RuntimeError, match="does not hold what was written"):
        store.commit(make_result(trial, 0.5))
    assert not store.has_result(trial.key)


def test_a_result_needs_its_predictions(store, plan):
    trial = plan.trials[1]
    claim = store.claim(trial.key, OWNER)
    with pytest.raises(FileNotFoundError):
        store.commit(make_result(trial, 0.5))
    assert not store.has_result(trial.key)
    claim.release()


def cut(path):
    path.write_bytes(path.read_bytes()[:40])


def change_a_score(path):
    path.write_text(path.read_text().replace("0.5", "0.6", 1))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("result.json", cut, "result.json cannot be read"),
        ("result.json", change_a_score, "result.json was changed"),
        ("attempts/1/predictions.parquet", cut, "predictions.parquet was changed"),
        ("attempts/1/predictions.parquet", Path.unlink, "predictions.parquet is missing"),
    ],
)
def test_a_damaged_result_is_noticed_and_its_trial_runs_again(store, plan, file, damage, said):
    trial = plan.trials[1]
    first = commit_result(store, trial, 0.5)
    assert store.has_result(trial.key)
    damage(store.trial_folder(trial.key) / file)
    assert store.damage(trial.key).endswith(said)
    assert status_of(store, trial).state == "waiting"
    again = commit_result(store, trial, 0.5)
    assert again.attempt == 2
    assert dataclasses.replace(again, attempt=1) == first
    assert (store.trial_folder(trial.key) / "result.damaged-2.json").exists()
    assert store.damage(trial.key) is None


def test_a_claim_that_was_declared_dead_can_be_taken_over(store, plan):
    key = plan.trials[1].key
    hanging = store.claim(key, OWNER)
    store.claims.declare_dead(key, 1, "no progress for 5 s")
    assert not store.is_running(key)
    assert store.claims.hangs(key, 1)
    second = store.claim(key, OWNER)
    assert second.attempt == 2
    assert store.is_running(key)
    hanging.release()
    assert not store.claims.hangs(key, 1)
    second.release()


def test_a_store_that_may_only_be_read_can_be_looked_at(store, plan):
    trial = plan.trials[1]
    claim = store.claim(trial.key, OWNER)
    (store.trial_folder(trial.key) / "claim.1").chmod(0o444)
    assert status_of(store, trial).state == "running"
    claim.release()
    assert status_of(store, trial).state == "waiting"


def test_an_attempt_advances_by_what_it_adds_to_the_earlier_ones(store, plan):
    trial = plan.trials[1]
    key = trial.key
    for attempt, steps in ((1, (20, 40)), (2, (40,)), (3, (60,)), (4, ())):
        store.claim(key, OWNER).release()
        folder = store.attempt_folder(key, attempt) / "checkpoints"
        folder.mkdir()
        for step in steps:
            (folder / checkpoint_name(step, "f" * 64)).touch()
    old, new = ({"of": "w", "task": "t", "outputs": {p: ""}} for p in ("10", "9"))
    for attempt, lines in ((3, [old]), (4, [old]), (5, [old, new])):
        folder = store.attempt_folder(key, attempt)
        folder.mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "answers.jsonl").write_text(text)
    store.claim(key, OWNER).release()
    for attempt in range(1, 6):
        store.end_attempt(trial, attempt, "killed")
    assert [r.steps for r in store.records(key)] == [40, 0, 20, 0, 0]
    assert [r.answers for r in store.records(key)] == [0, 0, 1, 0, 1]
    assert [r.failed for r in store.records(key)] == [False, True, False, True, False]


def test_lines_that_cannot_be_read_are_passed_over(store, plan):
    key = plan.trials[1].key
    store.claim(key, OWNER).release()
    good = '{"phase": "train", "step": 3}'
    path = store.attempt_folder(key, 1) / "metrics.jsonl"
    path.write_bytes(b"\x00\xff\x00\n" + good.encode() + b"\n[1]\n" + good.encode() + b"\n{")
    assert store.metrics(key, 1) == [{}, json.loads(good), {}, json.loads(good)]
    assert store.metrics(key, 1, skip=3) == [json.loads(good)]
    assert store.progress(key, 1) == json.loads(good)


def test_a_pruned_trial_is_neither_failed_nor_waiting(store, plan):
    trial = plan.trials[1]
    claim = store.claim(trial.key, OWNER)
    store.prune(trial.key, 80)
    assert status_of(store, trial).state == "running"  # until its next step
    claim.release()
    assert status_of(store, trial).state == "pruned"


def test_status_follows_a_trial_through_its_life(store, plan, monkeypatch):
    trial = plan.trials[1]

    def state():
        return status_of(store, trial).state

    assert state() == "waiting"
    claim = store.claim(trial.key, OWNER)
    metrics = store.attempt_folder(trial.key, 1) / "metrics.jsonl"
    metrics.write_text('{"phase": "train", "step": 3}\n{"phase": "train", "st')
    status = status_of(store, trial)
    assert (status.state, status.owner) == ("running", OWNER)
    assert status.progress == {"phase": "train", "step": 3}
    claim.release()
    assert state() == "waiting"
    commit_result(store, trial, 0.5)
    assert state() == "done"
    monkeypatch.setattr(
        "gatera.studies.store.staleness.training_code", lambda config: {"a.py": "new"}
    )
    status = status_of(store, trial)
    assert status.state == "stale"
    assert status.reason.startswith("stale: a.py, gatera/")
    store.retire_result(trial.key, "old")
    assert state() == "waiting"


def test_a_trial_fails_after_its_kinds_limit_and_can_be_forgiven(store, plan):
    trial = plan.trials[1]
    for attempt in (1, 2):
        assert not store.has_failed(trial.key, None)
        store.claim(trial.key, OWNER).release()
        note_end(store, trial.key, attempt, "bug", "it broke", "the log")
    assert store.has_failed(trial.key, None)
    assert not store.has_failed(trial.key, 3)
    status = status_of(store, trial)
    assert (status.state, status.failure.attempt, status.reason) == ("failed", 2, "it broke")
    store.forgive_failures(trial.key)
    assert status_of(store, trial).state == "waiting"


def test_being_killed_counts_less_than_a_bug(store, plan):
    key = plan.trials[1].key
    for attempt in range(1, 6):
        assert not store.has_failed(key, None)
        store.claim(key, OWNER).release()
        note_end(store, key, attempt, "killed", "killed by SIGKILL", "")
    assert store.has_failed(key, None)


@pytest.mark.parametrize("kind", ["interrupted", "no_space"])
def test_what_is_nobodys_fault_does_not_count(store, plan, kind):
    key = plan.trials[1].key
    for attempt in range(1, 9):
        store.claim(key, OWNER).release()
        note_end(store, key, attempt, kind, "asked to end", "")
    assert store.failures(key) == []
    assert not store.has_failed(key, 1)


def test_nothing_half_written_is_left_under_a_name(store, plan):
    commit_result(store, plan.trials[1], 0.5)
    store.write_plan(plan)
    for path in store.folder.rglob("*.json"):
        json.loads(path.read_text())
    assert not [p for p in store.folder.rglob(".*") if p.is_file()]
