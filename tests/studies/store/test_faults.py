"""What happens to a store from outside: nothing is lost, and nobody reads half of anything."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from made_up import commit_result
from made_up_work import run_here, start_worker

from gatera import cli
from gatera.errors import InputError
from gatera.studies.catalog import load
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.snapshot import status_of
from gatera.studies.store.store import Store


@pytest.fixture
def begun(store, plan, monkeypatch):
    """A store in which three trials have a result."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    store.write_plan(plan)
    for trial in plan.trials[:3]:
        commit_result(store, trial, 0.5)
    return store


def finish(store: Store) -> None:
    """Run what is left with one worker; it must end well."""
    worker = start_worker(store)
    assert worker.wait(120) == 0, worker.communicate()


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder_in_place_of(path: Path) -> None:
    """Put a folder where a file should be."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [cut, folder_in_place_of])
def test_a_result_that_is_no_result_is_computed_again(begun, plan, harm):
    trial = plan.trials[1]
    harm(begun.trial_folder(trial.key) / "result.json")
    fresh = Store(begun.folder)
    assert fresh.result(trial.key) is None
    assert "cannot be read" in fresh.damage(trial.key)
    finish(begun)
    assert all(begun.has_result(each.key) for each in plan.trials)
    assert begun.result(trial.key).attempt == 2
    assert len(list(begun.trial_folder(trial.key).glob("result.damaged-*"))) == 1


@pytest.mark.parametrize("harm", [cut, folder_in_place_of])
def test_predictions_that_are_not_those_of_the_result_are_made_again(begun, plan, harm):
    trial = plan.trials[1]
    harm(begun.predictions_path(trial.key, 1))
    finish(begun)
    assert begun.result(trial.key).attempt == 2


@pytest.mark.parametrize("harm", [cut, folder_in_place_of])
def test_a_plan_that_cannot_be_read_is_one_message(begun, plan, harm):
    harm(begun.folder / "plans" / f"{plan.id}.json")
    with pytest.raises(InputError, match=r"cannot be read .* run the study again"):
        begun.plan(plan.id)
    worker = start_worker(begun)
    assert worker.wait(60) == 2
    assert "Traceback" not in worker.communicate()[1]


@pytest.mark.parametrize(
    "name", ["claim.1", "attempts/1/metrics.jsonl", "attempts/1/ended.json", "attempts/1/log"]
)
def test_a_folder_in_place_of_a_file_of_an_attempt_costs_that_attempt_alone(begun, plan, name):
    trial = plan.trials[5]
    (begun.trial_folder(trial.key) / name).mkdir(parents=True)
    assert status_of(begun, trial).state == "waiting"
    finish(begun)
    assert all(begun.has_result(each.key) for each in plan.trials)


def test_a_folder_in_place_of_the_record_of_weights_is_moved_aside(begun, plan):
    trial = plan.trials_of("gatera")[2]
    (begun.folder / "trained" / f"{trial.training_key}.json").mkdir()
    finish(begun)
    assert begun.weights.of(trial) is not None


def test_a_file_in_place_of_the_stores_folders_is_one_message(store):
    for name in ("trials", "trained"):
        folder = store.folder / name
        folder.rmdir()
        folder.write_text("")
        with pytest.raises(InputError, match=f"{name} is a file where the store has a folder"):
            Store(store.folder, create=True)
        folder.unlink()
        folder.mkdir()


@pytest.mark.parametrize("view", ["optuna.journal", "mlflow.db"])
@pytest.mark.parametrize("harm", ["random bytes", "a folder"])
def test_views_that_are_none_cost_a_warning_at_most(begun, plan, tmp_path, view, harm):
    path = begun.folder / view
    if harm == "a folder":
        path.mkdir()
    else:
        path.write_bytes(bytes(range(256)) * 40)
    outcome = run_here(begun, plan.id, "local", tmp_path / "reports")
    assert outcome.snapshot.counts["done"] == 10
    assert len(outcome.warnings) == (harm == "a folder")
    assert all("sync" in each and "brings it up to date" in each for each in outcome.warnings)
    if (view, harm) == ("mlflow.db", "a folder"):
        said = f"{path} is a folder where MLflow's database should be; move it away"
        assert said in outcome.warnings[0]


def test_a_clock_that_is_set_back_changes_nothing(begun, plan):
    ahead = time.time() + 7 * 24 * 3600
    for path in begun.folder.rglob("*"):
        if path.is_file():
            os.utime(path, (ahead, ahead))
    claim = begun.claim(plan.trials[4].key, {"worker": "gone", "claimed_at": ahead})
    claim.release()
    before = {t.key: begun.result(t.key).attempt for t in plan.trials[:3]}
    finish(begun)
    assert all(begun.has_result(trial.key) for trial in plan.trials)
    assert {key: begun.result(key).attempt for key in before} == before
    assert begun.result(plan.trials[4].key).attempt == 2
    assert all(each.seconds < 120 for t in plan.trials[3:] for each in begun.records(t.key))


def test_a_study_file_that_changes_meanwhile_is_the_study_as_it_was(
    tracked, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(
        "from gatera.studies import Study, Variant\n"
        'STUDY = Study(variants=(Variant("gatera"),), reference="gatera", seeds=(0, 1))\n'
    )
    loaded = load(str(path))
    plan = make_plan(loaded, Request())
    tracked.write_plan(plan)
    path.write_text(path.read_text().replace("(0, 1)", "(0, 1, 2, 3)"))
    outcome = run_here(tracked, plan.id, "local", tmp_path / "reports")
    assert outcome.snapshot.counts["done"] == 3
    arguments = ["mine.py", "--store", str(tracked.folder)]
    assert cli.main(["report", *arguments]) == 0
    said = capsys.readouterr().out
    assert "the study file has changed since `run` planned these trials" in said
    assert f"study file: {loaded.sha256[:16]}" in said
    assert cli.main(["plan", *arguments, "--json"]) == 0
    states = [trial["state"] for trial in json.loads(capsys.readouterr().out)["trials"]]
    assert sorted(states) == ["done"] * 3 + ["waiting"] * 2


def test_what_no_attempt_can_use_ends_the_trial_at_once(store, plan, monkeypatch):
    store.write_plan(plan)
    trial = plan.trials_of("gatera")[0]
    worker = start_worker(store, refused_variant="gatera")
    assert worker.wait(120) == 0, worker.communicate()
    (record,) = store.records(trial.key)
    assert (record.ended, record.message) == ("input", "gatera, seed 0: give something else.")
    assert status_of(store, trial).state == "failed"
    assert store.has_result(plan.trials_of("hira")[0].key)


def test_copies_of_a_store_go_on_by_themselves(begun, plan, tmp_path):
    shutil.copytree(begun.folder, tmp_path / "copy")
    copied = Store(tmp_path / "copy")
    finish(copied)
    assert all(copied.has_result(trial.key) for trial in plan.trials)
    assert not begun.has_result(plan.trials[5].key)
