"""Which adapters stay in a store: all, of each row the best on validation, or none."""

import os
import sys
from pathlib import Path

import pytest
from made_up import commit_result
from made_up_work import run_here
from mlflow.tracking import MlflowClient

from gatera.errors import InputError
from gatera.studies import run
from gatera.studies.export import export_adapter
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.cleaning import removable, remove, surplus_adapters
from gatera.studies.store.store import Store
from gatera.studies.views.mlflow_database import local_uri

VALIDATED = {0: 0.5, 1: 0.75, 2: 0.75}  # by seed; of the best two the first stays


def finish(store, trial, validated):
    """Finish a trial; the more it validates, the worse its test score."""
    commit_result(store, trial, 1 - validated, metrics={"val/accuracy": validated})


def kept(store, plan):
    """Return (variant, seed) of the trials whose weights the store has."""
    return {
        (trial.variant, trial.seed)
        for trial in plan.trials
        if store.weights.recorded(trial.training_key) is not None
    }


@pytest.fixture
def finished(store, plan):
    """Return the store with all trials finished, but for one."""
    for trial in plan.trials[:-1]:
        finish(store, trial, VALIDATED[trial.seed])
    return store


def test_of_each_row_the_best_on_validation_stays(finished, plan):
    last = plan.trials[-1]
    rows = [variant for variant in plan.changes if variant != "frozen"]
    assert surplus_adapters(finished, [plan], "all") == []
    remove(surplus_adapters(finished, [plan], "best"))
    expected = {(variant, 1) for variant in rows}
    assert kept(finished, plan) == expected
    finish(finished, last, 0.875)
    remove(surplus_adapters(finished, [plan], "best"))
    assert kept(finished, plan) == expected - {(last.variant, 1)} | {(last.variant, last.seed)}


def test_without_any_every_result_stays(finished, plan):
    results = {trial.key: finished.result(trial.key) for trial in plan.trials}
    remove(surplus_adapters(finished, [plan], "none"))
    assert kept(finished, plan) == set()
    assert surplus_adapters(finished, [plan], "none") == []
    again = Store(finished.folder)
    assert {trial.key: again.result(trial.key) for trial in plan.trials} == results
    assert removable(again) == []
    with pytest.raises(InputError, match=r"adapter of hira, seed 1, was not kept; its result was"):
        export_adapter(again, plan, "hira", 1, None)


def test_weights_that_an_unfinished_trial_needs_stay(store, study, plan):
    closing = make_plan(study, Request(overrides={"adapter.gate_threshold": 0.25}))
    first, other = (each.trials_of("gatera")[0] for each in (plan, closing))
    assert first.training_key == other.training_key
    finish(store, first, 0.5)
    assert surplus_adapters(store, [plan, closing], "none", beside=first) == []
    assert len(surplus_adapters(store, [plan], "none", beside=first)) == 1
    commit_result(store, other, 0.25)
    assert len(surplus_adapters(store, [plan, closing], "none", beside=first)) == 1


def test_what_a_killed_removal_left_goes_too(finished, plan):
    trial = plan.trials_of("hira")[0]
    folder = finished.attempt_folder(trial.key, 1) / "adapter"
    (folder / "adapter_model.safetensors").unlink()  # the other file is still there
    gone = [each.path for each in surplus_adapters(finished, [plan], "none", beside=trial)]
    assert folder in gone
    remove(surplus_adapters(finished, [plan], "none"))
    assert not folder.exists()


@pytest.mark.parametrize(("keep", "left"), [("none", 0), ("best", 3), ("all", 9)])
def test_a_run_keeps_what_it_was_asked_to(tracked, plan, tmp_path, monkeypatch, keep, left):
    tracked.write_plan(plan)
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    outcome = run_here(tracked, plan.id, "local", tmp_path / "reports", keep=keep)
    assert outcome.snapshot.counts["done"] == 10
    assert outcome.warnings == ()
    assert len(kept(tracked, plan)) == left
    client = MlflowClient(tracking_uri=local_uri(tracked))
    experiment = client.get_experiment_by_name(plan.study)
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models) == (left if keep == "all" else 0)


def test_another_word_is_refused(tmp_path):
    with pytest.raises(InputError, match="keep='some'; it is one of all, best, none"):
        run("ablation_table5", store=tmp_path / "store", keep="some")
    assert not (tmp_path / "store").exists()
