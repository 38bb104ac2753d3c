"""What a run says before it begins."""

import pytest
from made_up import commit_result

from gatera.studies.catalog import load
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.views.forecast import opening_line

ROWS = "made_up.tiny: 4 rows x 3 seeds, 10 trials (frozen is one)"


def opening(store, plan, workers, retry=None):
    return opening_line(plan, take_snapshot(store, plan, max_attempts=1), workers, retry)


def test_how_long_is_not_known_before_a_trained_trial_has_finished(store, plan):
    unknown = "on 2 workers; how long is not known before one has finished"
    assert opening(store, plan, 2) == f"{ROWS}, {unknown}"
    commit_result(store, plan.trials[0], 0.5, seconds=1.0)
    assert plan.trials[0].variant == "frozen"
    assert opening(store, plan, 2) == f"{ROWS}, 9 left to run, {unknown}"


@pytest.mark.parametrize(
    ("workers", "said"), [(1, "2 min 20 s on 1 worker"), (2, "1 min 20 s on 2 workers")]
)
def test_how_long_is_what_finished_ones_took_on_that_many_workers(store, plan, workers, said):
    for trial, seconds in zip(plan.trials[:3], (1.0, 10.0, 30.0), strict=True):
        commit_result(store, trial, 0.5, seconds=seconds)
    assert opening(store, plan, workers) == f"{ROWS}, 7 left to run, about {said}"


def test_what_runs_again_is_left_to_run(store, plan):
    for trial in plan.trials:
        commit_result(store, trial, 0.5, scoring={"code": {"a.py": "other"}})
    assert opening(store, plan, 2, "failed") == f"{ROWS}, none of them left to run"
    assert opening(store, plan, 2, "stale").startswith(f"{ROWS}, about ")


def test_a_tuning_phase_comes_first(store):
    plan = make_plan(load("tuned_table5"), Request())
    said = f", after {plan.tuning.total} tuning trials; how long is not known yet"
    assert opening(store, plan, 2).endswith(said)
