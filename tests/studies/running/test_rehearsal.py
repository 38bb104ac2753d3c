"""A rehearsal: what it cuts, what it makes of the times, and that it measures nothing twice."""

import dataclasses
import hashlib
import json

import pytest
from made_up import make_result

from gatera import cli
from gatera.studies import Tuning, rehearse
from gatera.studies.asking import Asked
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.running import rehearsal
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.store.store import Store
from gatera.studies.study import Variant
from gatera.training.attempt_files import METRICS_FILE

TASKS = ("world_truth", "world_use")
STARTED = 3.0  # seconds that neither steps, nor validations, nor items take


def metrics_of(trial, step, validation, item):
    """Return the lines of a rehearsed trial: its first steps are slow, and loading takes time."""
    lines, seconds = [], 10.0
    for number in () if trial.is_frozen else range(1, rehearsal.STEPS + 1):
        seconds += 7 * step if number < 6 else step
        lines.append({"phase": "train", "step": number, "seconds": seconds})
        if number in (10, 20):
            seconds += validation
            lines.append({"phase": "validate", "step": number, "seconds": seconds})
    items = rehearsal.ITEMS * len(TASKS)
    lines += [
        {"phase": "test", "step": 20, "answered": n, "items": items, "seconds": n * item}
        for n in (items // 2, items)
    ]
    return lines


def rehearse_made_up(store, plan, times):
    """Finish the trials of a rehearsal's plan as if they took these times, by variant."""
    for trial in plan.trials:
        step, validation, item = times[trial.variant]
        claim = store.claim(trial.key, {})
        folder = store.attempt_folder(trial.key, 1)
        lines = metrics_of(trial, step, validation, item)
        (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
        predictions = folder / "predictions.parquet"
        predictions.write_bytes(b"")
        result = make_result(trial, 0.5, predictions_sha256=file_sha256(predictions))
        learned = 0.0 if trial.is_frozen else rehearsal.STEPS * step + 2 * validation
        measured = {"validation_seconds": 2 * validation, "peak_memory_bytes": 2**29}
        whole = STARTED + learned + rehearsal.ITEMS * len(TASKS) * item
        store.end_attempt(trial, 1, "finished", seconds=whole)
        assert store.commit(dataclasses.replace(result, measured=measured))
        claim.release()


def file_sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


TIMES = {
    "frozen": (0.0, 0.0, 0.25),
    "hira": (0.5, 2.0, 0.125),
    "static_gate": (0.75, 4.0, 0.25),
    "gatera": (1.0, 4.0, 0.25),
}


def asked(study, **overrides):
    return Asked(study, Request(tasks=TASKS, overrides=overrides), "made_up")


def found(store, asking):
    cut = rehearsal.cut(asking).plan(strict=True)
    rehearse_made_up(store, cut, TIMES)
    return rehearsal._found(asking.plan(strict=True), store, take_snapshot(store, cut), None)


def test_the_whole_is_computed_from_what_was_measured(study, store):
    asking = asked(study, **{"train.max_steps": 1000, "train.validation_every": 300})
    told = found(store, asking)
    items = 2 * 96
    trial = {
        "frozen": STARTED + items * 0.25,
        "hira": STARTED + 1000 * 0.5 + 4 * 2.0 + items * 0.125,
        "static_gate": STARTED + 1000 * 0.75 + 4 * 4.0 + items * 0.25,
        "gatera": STARTED + 1000 * 1.0 + 4 * 4.0 + items * 0.25,
    }
    assert {each.variant: each.trial_seconds for each in told.times} == pytest.approx(trial)
    assert {each.variant: each.trials for each in told.times} == {
        "frozen": 1,
        "hira": 3,
        "static_gate": 3,
        "gatera": 3,
    }
    whole = trial["frozen"] + 3 * sum(s for name, s in trial.items() if name != "frozen")
    assert told.seconds == pytest.approx(whole)
    row = next(each for each in told.times if each.variant == "hira")
    assert (row.step_seconds, row.validation_seconds, row.item_seconds) == pytest.approx(
        (0.5, 2.0, 0.125)
    )
    assert row.start_seconds == pytest.approx(STARTED)
    lines = told.text.splitlines()
    assert lines[0].startswith("rehearsal of made_up.tiny")
    assert "512 MiB" in told.text
    assert any(line.startswith("the whole, 10 trials: ") for line in lines)
    assert list(told.rows.columns[:3]) == ["variant", "step_seconds", "validation_seconds"]
    assert told.rows["trial_seconds"].tolist() == pytest.approx(list(trial.values()))


def test_tuning_trials_count_and_are_not_rehearsed(study, store):
    tuning = Tuning(
        trials=4, seeds=2, steps=100, validate_every=50, search={"train.learning_rate": (1e-3, 0.1)}
    )
    tuned = dataclasses.replace(study, study=dataclasses.replace(study.study, tuning=tuning))
    asking = asked(tuned, **{"train.max_steps": 1000, "train.validation_every": 300})
    cut = rehearsal.cut(asking).plan(strict=True)
    assert cut.tuning is None
    assert len(cut.trials) == 4
    told = found(store, asking)
    untuned = make_plan(study, asking.request)
    plain = rehearsal._found(untuned, store, take_snapshot(store, cut), None).seconds
    of_rows = {name: STARTED + 100 * TIMES[name][0] + 2 * TIMES[name][1] for name in TIMES}
    of_rows.pop("frozen")
    assert told.seconds - plain == pytest.approx(4 * 2 * sum(of_rows.values()))


def test_rows_are_cut_in_what_they_change_too(study):
    longer = Variant("longer", changes={"train.max_steps": 5000, "adapter.r": 4})
    stated = dataclasses.replace(study.study, variants=(*study.study.variants, longer))
    cut = rehearsal.cut(Asked(dataclasses.replace(study, study=stated), Request()))
    plan = cut.plan(strict=True)
    row = plan.trials_of("longer")[0].config
    assert row["train"]["max_steps"] == rehearsal.STEPS
    assert row["adapter"]["r"] == 4
    assert {trial.config["eval"]["limit"] for trial in plan.trials} == {rehearsal.ITEMS}
    assert {trial.seed for trial in plan.trials} == {0}


def test_a_real_rehearsal_measures_each_row_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = ["run", "ablation_table5", "--variants", "hira,gatera", "--tasks", "world_truth"]
    assert cli.main([*rows, "--rehearse"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("rehearsal of ablation_table5.tiny.")
    assert said.err.endswith("/gatera-store-rehearsal\n")
    assert not (tmp_path / "gatera-store").exists()
    assert not (tmp_path / "reports").exists()
    told = rehearse("ablation_table5", variants=("hira", "gatera"), tasks=("world_truth",))
    assert [each.variant for each in told.times] == ["frozen", "hira", "gatera"]
    for each in told.times:
        assert 0 < each.item_seconds < each.trial_seconds
        if each.variant != "frozen":
            assert 0 < each.step_seconds < each.trial_seconds
    assert f"{told.text}\n" == said.out
    store = Store(tmp_path / "gatera-store-rehearsal")
    (plan_id,) = store.plan_ids()
    assert [store.claims.newest(trial.key) for trial in store.plan(plan_id).trials] == [1, 1, 1]


def test_a_row_that_fails_is_told_and_the_others_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(
        "from gatera.adapter import Gate\n\n\n"
        "class Broken(Gate):\n"
        "    def logit(self, x, preceding):\n"
        "        raise RuntimeError('a planted bug')\n"
    )
    (tmp_path / "planted.py").write_text(
        "from gatera.studies import Study, Variant\n\n"
        "STUDY = Study(\n"
        "    variants=(\n"
        "        Variant('broken', changes={'adapter.gate': 'broken.py:Broken'}),\n"
        "        Variant('ungated', changes={'adapter.gate': 'none'}),\n"
        "    ),\n"
        "    reference='ungated',\n"
        ")\n"
    )
    assert cli.main(["run", "planted.py", "--tasks", "world_truth", "--rehearse"]) == 3
    said = capsys.readouterr()
    assert "a planted bug" in said.err
    assert [line.split()[0] for line in said.out.splitlines()[3:5]] == ["frozen", "ungated"]
