"""A trial that runs out of memory goes on in smaller parts, and its result says so."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from made_up import make_result
from made_up_work import run_here

from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.results import agree
from gatera.studies.workers.attempt import _kind, in_smaller_parts


@pytest.fixture
def run(tracked, plan, tmp_path, monkeypatch):
    """Return what runs the made-up study where so many items of a step fit into memory."""
    tracked.write_plan(plan)
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def run_study(fits):
        monkeypatch.setenv("MADE_UP", json.dumps({"fits": fits}))
        reports = tmp_path / "reports"
        return run_here(tracked, plan.id, "local", reports, tracking_uri="none")

    return run_study


def test_each_attempt_takes_half_as_much_at_once(run, tracked, plan):
    outcome = run(fits=2)  # of 8 items a step
    assert outcome.snapshot.counts["done"] == 10
    for trial in plan.trials:
        result = tracked.result(trial.key)
        assert result.config == trial.config
        if trial.is_frozen:
            assert result.attempt == 1
            continue
        ends = [record.ended for record in tracked.records(trial.key)]
        assert ends == ["out_of_memory", "out_of_memory", "finished"]
        assert result.provenance["training"]["accumulation"] == 4
        assert result.provenance["scoring"]["batch_size"] == trial.config["eval"]["batch_size"] // 4
    note = "computed in other parts than planned, as where memory ran out (train.accumulation 4 in"
    assert f"gatera, seed 0: {note} place of 1, eval.batch_size 32 in place of 128)" in (
        outcome.report.markdown
    )
    assert outcome.report.markdown.count(note) == 9


def test_what_never_fits_fails_and_says_why(run, tracked, plan):
    outcome = run(fits=-1)
    counts = outcome.snapshot.counts
    assert (counts["done"], counts["failed"]) == (1, 9)
    trial = plan.trials_of("gatera")[0]
    assert tracked.claims.newest(trial.key) == 5
    message = tracked.records(trial.key)[-1].message
    assert message == "gatera, seed 0: MemoryError: no room for 1 items"


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "times", "expected"),
    [(8, 1, 0, 1), (8, 1, 1, 2), (8, 1, 3, 8), (8, 1, 6, 8), (12, 2, 1, 4), (6, 1, 2, 6)],
)
def test_a_step_is_split_into_equal_parts(study, batch_size, accumulation, times, expected):
    settings = {"train.batch_size": batch_size, "train.accumulation": accumulation}
    trial = make_plan(study, Request(overrides=settings)).trials_of("gatera")[0]
    smaller = in_smaller_parts(trial, times)
    assert smaller.config["train"]["accumulation"] == expected
    assert smaller.config["eval"]["batch_size"] == trial.config["eval"]["batch_size"] >> times
    assert (smaller.key, smaller.training_key) == (trial.key, trial.training_key)
    assert trial.config["train"]["accumulation"] == accumulation


def test_the_frozen_backbone_and_tuning_trials_have_parts_of_their_own(plan):
    frozen = plan.trials_of("frozen")[0]
    smaller = in_smaller_parts(frozen, 9)
    assert smaller.config["eval"]["batch_size"] == 1
    assert smaller.key == frozen.key
    tuning = dataclasses.replace(
        plan.trials_of("gatera")[0],
        config={n: c for n, c in plan.trials_of("gatera")[0].config.items() if n != "eval"},
    )
    assert in_smaller_parts(tuning, 1).config["train"]["accumulation"] == 2


def test_what_torch_says_is_understood():
    import torch

    with pytest.raises(RuntimeError) as on_cpu:
        torch.empty(2**60, dtype=torch.uint8)
    assert _kind(on_cpu.value) == "out_of_memory"
    assert _kind(torch.OutOfMemoryError("CUDA out of memory.")) == "out_of_memory"
    assert _kind(RuntimeError("shapes do not match")) == "bug"


def test_results_of_unlike_parts_need_not_be_equal(plan):
    trial = plan.trials_of("gatera")[0]
    one, other = make_result(trial, 0.5), make_result(trial, 0.25)
    assert agree(one, dataclasses.replace(one, attempt=2))
    assert not agree(one, other)
    assert agree(one, make_result(trial, 0.25, training={"accumulation": 2}))
    assert agree(one, make_result(trial, 0.25, scoring={"batch_size": 64}))
