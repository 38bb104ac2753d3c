"""Two keys: weights are trained once, and scored as often as somebody asks for other scores."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from pathlib import Path

from made_up import commit_result, make_trained
from made_up_work import run_here, start_worker

from gatera import cli
from gatera.studies.export import export_adapter
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.store.store import Store
from gatera.studies.views.outlook import SCORE_ONLY, TRAIN_AND_SCORE, trial_outlook
from gatera.training.attempt_files import checkpoint_name
from gatera.training.provenance.code import training_code
from gatera.trial import Trial

OWNER = {"worker": "w", "host": "h", "pid": 1, "claimed_at": 0.0}


def trained_in(store: Store) -> Counter[str]:
    """Return how many attempts took training steps, by training key."""
    found: Counter[str] = Counter()
    for path in store.folder.glob("trials/*/attempts/*/metrics.jsonl"):
        if any(json.loads(line)["phase"] == "train" for line in path.read_text().splitlines()):
            key = path.parts[-4]
            result = store.result(key)
            assert result is not None
            found[result.training_key] += 1
    return found


def outlook(store: Store, plan: Plan) -> list[tuple[str, str | None]]:
    rows = trial_outlook(store, plan, take_snapshot(store, plan))
    return [(row["state"], row["work"]) for row in rows]


def test_what_is_scored_and_how_leaves_the_training_key_as_it_is(study, plan):
    trial = plan.trials_of("gatera")[0]
    for request in (
        Request(tasks=("world_use", "world_kin")),
        Request(overrides={"eval.beams": 2}),
        Request(overrides={"adapter.gate_threshold": 0.25}),
        Request(overrides={"eval.knowledge": None}),
    ):
        again = make_plan(study, request).trials_of("gatera")[0]
        assert again.training_key == trial.training_key
        assert again.key != trial.key
    for name, value in (
        ("adapter.r", 4),
        ("train.validation_max_new_tokens", 4),
        ("train.validation_items", 60),
        ("train.init_seed", 7),
        ("data.train_tasks", list(reversed(plan.tasks))),
    ):
        again = make_plan(study, Request(overrides={name: value})).trials_of("gatera")[0]
        assert again.training_key != trial.training_key
    closed = {"adapter.gate_threshold": 0.25, "adapter.gate_threshold_in_training": True}
    again = make_plan(study, Request(overrides=closed)).trials_of("gatera")[0]
    assert again.training_key != trial.training_key


def test_what_changes_the_bits_alone_is_in_no_key(study, plan):
    for name, value in (
        ("train.accumulation", 4),
        ("train.gradient_checkpointing", True),
        ("train.checkpoint_every", 7),
        ("train.validation_batch_size", 3),
        ("eval.batch_size", 3),
    ):
        again = make_plan(study, Request(overrides={name: value}))
        assert [trial.key for trial in again.trials] == [trial.key for trial in plan.trials]


def test_keys_hold_no_field_at_its_neutral_value(plan):
    """So that a field which is added later makes nothing old."""
    trial = plan.trials_of("gatera")[1]
    config = {section: dict(fields) for section, fields in trial.config.items()}
    for section, name in (("adapter", "mora_type"), ("train", "order_seed"), ("eval", "beams")):
        del config[section][name]  # as an earlier gatera would have written it
    assert dataclasses.replace(trial, config=config).key == trial.key


def test_keys_are_what_they_were():
    """A change here costs users their stores: CHANGELOG.md has to say so."""
    adapter = {"method": "gatera", "r": 8, "gate": "static", "dropout": 0.0, "gate_threshold": 0.5}
    trial = Trial(
        variant="row",
        seed=12,
        config={
            "backbone": {"name": "tiny"},
            "adapter": adapter,
            "train": {"learning_rate": 0.02, "max_steps": 80, "dtype": "float32", "init_seed": 3},
            "eval": {"limit": 10, "beams": 1, "batch_size": 7},
            "data": {"template": "alpaca", "tasks": ["b", "a"], "train_tasks": ["a"]},
        },
        identities={
            "backbone": {"weights_sha256": "w"},
            "template": "t",
            "items": "i",
            "data": {"a": {"train": "1", "test": "2"}, "b": {"test": "3"}},
            "sources": {"adapter.gate": "g", "eval.knowledge": "k"},
        },
    )
    assert (trial.key, trial.training_key) == ("a24e1d11fd3f1874", "c041165c4d454970")
    frozen = dataclasses.replace(
        trial,
        config={
            **trial.config,
            "adapter": {"method": "frozen"},
            "train": {"dtype": "float32"},
            "data": {"template": "alpaca", "tasks": ["a"]},
        },
    )
    assert (frozen.key, frozen.training_key) == ("12bfbfbb49297407", "8d47e75498128dae")


def test_a_seed_of_its_own_says_what_the_trials_seed_would(study, plan):
    trial = plan.trials_of("gatera")[1]
    own = {f"train.{name}_seed": 1 for name in ("order", "init", "dropout")}
    assert {
        t.training_key for t in make_plan(study, Request(overrides=own)).trials_of("gatera")
    } == {trial.training_key}


def test_a_column_added_to_a_finished_study_trains_nothing(tracked, study, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    store = tracked
    first = make_plan(study, Request(tasks=("world_use",)))
    store.write_plan(first)
    run_here(store, first.id, "local", tmp_path / "reports")
    before = trained_in(store)
    assert set(before.values()) == {1}
    assert len(before) == 9
    second = make_plan(study, Request(tasks=("world_use", "world_kin")))
    assert {work for _, work in outlook(store, second)} == {SCORE_ONLY}
    store.write_plan(second)
    outcome = run_here(store, second.id, "local", tmp_path / "reports")
    assert outcome.snapshot.counts["done"] == 10
    assert trained_in(store) == before
    assert not {trial.key for trial in first.trials} & {trial.key for trial in second.trials}
    trial = second.trials_of("gatera")[0]
    result = store.result(trial.key)
    assert result.parts["training"] == store.weights.recorded(trial.training_key).provenance
    log = (store.attempt_folder(trial.key, 1) / "log").read_text()
    assert f"the weights are those of attempt 1 of trial {first.trials_of('gatera')[0].key}" in log


def test_two_open_trials_of_one_training_key_never_train_at_once(store, study):
    plans = [
        make_plan(study, Request(seeds=1, tasks=(task,))) for task in ("world_use", "world_kin")
    ]
    for plan in plans:
        store.write_plan(plan)
    workers = [start_worker(store, pause=0.2) for _ in range(3)]
    for worker in workers:
        assert worker.wait(180) == 0, worker.communicate()
    assert all(store.has_result(trial.key) for plan in plans for trial in plan.trials)
    assert set(trained_in(store).values()) == {1}
    assert len(list((store.folder / "trained").glob("*.by.2"))) == 0


def test_training_goes_on_from_another_trials_checkpoint(store, study):
    first, second = (
        make_plan(study, Request(seeds=1, variants=("gatera",), tasks=(task,)))
        for task in ("world_use", "world_kin")
    )
    store.write_plan(first)
    begun = first.trials_of("gatera")[0]
    worker = start_worker(store, steps=12, hanging_attempt=1, hangs_after=7)
    while (
        not (store.attempt_folder(begun.key, 1) / "checkpoints").is_dir()
        or ((store.progress(begun.key, 1) or {}).get("step") or 0) < 7
    ):
        assert worker.poll() is None
    worker.kill()
    worker.wait()
    (store.folder / "plans" / f"{first.id}.json").unlink()
    store.write_plan(second)
    worker = start_worker(store, steps=12)
    assert worker.wait(120) == 0
    trial = second.trials_of("gatera")[0]
    steps = [line["step"] for line in store.metrics(trial.key, 1) if line["phase"] == "train"]
    assert steps == [7, 8, 9, 10, 11, 12]  # a checkpoint every 2 steps


def keep(store: Store, trial: Trial) -> Path:
    """Let a trial have trained, and be killed before it was scored; return its weights."""
    claim = store.claim(trial.key, OWNER)
    assert claim is not None
    assert store.weights.begin(trial, claim.attempt)
    folder = store.attempt_folder(trial.key, claim.attempt)
    store.weights.keep(make_trained(trial, claim.attempt, folder), trial)
    claim.release()
    return folder / "adapter" / "adapter_model.safetensors"


def test_weights_that_changed_on_the_disk_are_trained_again(store, plan):
    trial = plan.trials_of("gatera")[0]
    weights = keep(store, trial)
    assert store.weights.of(trial) is not None
    weights.write_text("damaged")
    assert store.weights.of(trial) is None
    again = keep(store, trial)
    assert store.weights.of(trial).attempt == 2
    assert again.parent.parent.name == "2"
    weights = store.weights.adapter_folder(store.weights.of(trial)) / "adapter_model.safetensors"
    weights.unlink()
    assert store.weights.of(trial) is None


def test_the_right_to_train_is_that_of_the_newest_live_attempt(store, study):
    one, other = (
        make_plan(study, Request(tasks=(task,))).trials_of("gatera")[0]
        for task in ("world_use", "world_kin")
    )
    claim = store.claim(one.key, OWNER)
    assert store.weights.begin(one, claim.attempt)
    assert store.weights.are_made_by_another(other)
    assert not store.weights.begin(other, 1)
    claim.release()
    assert store.weights.begin(other, 1)
    assert store.weights.makers(one.training_key) == [(one.key, 1), (other.key, 1)]


def test_what_a_later_trial_trained_takes_nothing_from_an_earlier_one(store, study):
    one, other = (
        make_plan(study, Request(tasks=(task,))).trials_of("gatera")[0]
        for task in ("world_use", "world_kin")
    )
    for trial, step in ((one, 4), (other, 8)):
        claim = store.claim(trial.key, OWNER)
        assert store.weights.begin(trial, 1)
        folder = store.attempt_folder(trial.key, 1) / "checkpoints"
        folder.mkdir()
        (folder / checkpoint_name(step, "f" * 64)).touch()
        claim.release()
    for trial in (other, one):  # the earlier one is noted last
        store.end_attempt(trial, 1, "killed")
    assert [store.record(trial.key, 1).steps for trial in (one, other)] == [4, 4]
    assert not store.failures(one.key)


def test_a_later_trainer_of_the_same_weights_gets_the_first_ones(store, study):
    one, other = (
        make_plan(study, Request(tasks=(task,))).trials_of("gatera")[0]
        for task in ("world_use", "world_kin")
    )
    keep(store, one)
    folder = store.attempt_folder(other.key, 1)
    folder.mkdir(parents=True)
    assert store.weights.keep(make_trained(other, 1, folder), other).key == one.key


def test_plan_says_why_a_trial_is_where_it_is(store, study, plan, monkeypatch):
    store.write_plan(plan)
    trials = [*plan.trials_of("frozen"), plan.trials_of("gatera")[0], plan.trials_of("hira")[0]]
    for trial in trials:
        commit_result(store, trial, 0.5)
    keys = [trial.key for trial in trials]

    def reasons(of: Plan = plan) -> dict[str, tuple[str, str | None, str | None]]:
        rows = trial_outlook(store, of, take_snapshot(store, of))
        return {
            r["key"]: (r["state"], r["work"], r["reason"])
            for r in rows
            if r["key"] in keys or r["reason"]
        }

    assert set(reasons().values()) == {("done", None, None)}
    real = training_code
    changed = {"gatera/training/optimization/losses.py": "another constant"}
    monkeypatch.setattr(
        "gatera.studies.store.staleness.training_code",
        lambda c: {**real(c), **changed} if real(c) else {},
    )
    stale = ("stale", TRAIN_AND_SCORE, "stale: gatera/training/optimization/losses.py changed")
    assert [reasons()[key] for key in keys] == [("done", None, None), stale, stale]
    monkeypatch.undo()
    monkeypatch.setattr("gatera.training.provenance.machine.cpu_capability", lambda: "another")
    why = {reason for _, _, reason in reasons().values()}
    assert all(each.startswith("not mixed: processor ") for each in why)
    monkeypatch.undo()
    slower = make_plan(study, Request(overrides={"train.learning_rate": 0.5}))
    departing = dataclasses.replace(slower, departures=plan.departures)
    assert ("waiting", TRAIN_AND_SCORE, "new key: train.learning_rate 0.01 → 0.5") in reasons(
        departing
    ).values()


def test_scoring_code_alone_makes_stale_what_need_not_train(store, plan, monkeypatch):
    trial = plan.trials_of("gatera")[0]
    commit_result(store, trial, 0.5)
    monkeypatch.setattr(
        "gatera.studies.store.staleness.scoring_code",
        lambda config: {"gatera/tasks/answers.py": "new"},
    )
    row = next(
        each
        for each in trial_outlook(store, plan, take_snapshot(store, plan))
        if each["key"] == trial.key
    )
    assert (row["state"], row["work"]) == ("stale", SCORE_ONLY)


def test_an_exported_adapter_skips_what_its_row_skips(store, study, tmp_path):
    plan = make_plan(study, Request(overrides={"adapter.gate_threshold": 0.25}))
    commit_result(store, plan.trials_of("gatera")[0], 0.5)
    folder = export_adapter(store, plan, "gatera", 0, tmp_path / "out")
    assert json.loads((folder / "adapter_config.json").read_text())["gate_threshold"] == 0.25


def test_settings_are_listed_without_a_model(capsys):
    assert cli.main(["settings", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"name", "type", "choices", "minimum", "maximum", "default", "meaning"} == set(listed[0])
    assert cli.main(["settings"]) == 0
    assert "train.learning_rate: a number of at least 0\n" in capsys.readouterr().out
