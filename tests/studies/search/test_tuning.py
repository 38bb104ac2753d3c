"""Tuning with trials that only pretend: what is proposed, pruned and chosen."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from made_up import commit_result, note_end
from made_up_work import merit_of, run_here, start_run
from optuna.distributions import FloatDistribution
from optuna_journal import optuna_trials
from processes import noted

from gatera.errors import InputError
from gatera.reports.forms.cells import tuning_cells
from gatera.reports.tables import build_table
from gatera.studies import Study, Tuning, Variant
from gatera.studies.catalog import LoadedStudy
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan
from gatera.studies.planning.tuning import Choice, Range, TunedRow, is_edge, values_of
from gatera.studies.search.search import Course, Search
from gatera.studies.search.tuner import Tuner
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.store.store import Store
from gatera.studies.views.budget import describe_tuning, tuning_lines
from gatera.studies.views.progress import whole_line

RATE, WEIGHT = "train.learning_rate", "train.entropy_weight"
SEARCH = {RATE: (1e-4, 1e-1, "log"), WEIGHT: (1e-4, 1.0, "log")}
TUNING = Tuning(SEARCH, trials=6, steps=40, round_size=3)


def load(tuning=TUNING, variants=None):
    variants = variants or (
        Variant("hira", {"adapter.gate": "none"}),
        Variant("no_entropy", {WEIGHT: 0.0}),
        Variant("gatera"),
    )
    study = Study(variants, reference="gatera", seeds=(0, 1), tuning=tuning)
    return LoadedStudy("made_up", study, Path("made_up.py"), "s" * 64)


@pytest.fixture
def tuned_plan():
    return make_plan(load(), Request())


def tuner(store, plan, **options):
    return Tuner(store, plan, **options)


def write_validations(store, trial, values, max_steps=40):
    claim = store.claim(trial.key, {})
    path = store.attempt_folder(trial.key, claim.attempt) / "metrics.jsonl"
    lines = [
        {"phase": "validate", "step": 10 * n, "max_steps": max_steps, "val/accuracy": value}
        for n, value in enumerate(values, start=1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return claim


def finish(store, trial, accuracy=None, loss=None, curve=None):
    """Let a tuning trial end, by default as the workers that pretend do it."""
    accuracy = merit_of(trial) if accuracy is None else accuracy
    curve = curve or [accuracy * step / 4 for step in (1, 2, 3)]
    write_validations(store, trial, [*curve, accuracy]).release()
    metrics = {"val/accuracy": accuracy, "val/loss": 1 - accuracy if loss is None else loss}
    commit_result(store, trial, 0.0, metrics=metrics)


def waiting(snapshot):
    return [t for t in snapshot.unfinished if snapshot.statuses[t.key].state == "waiting"]


def run_all(store, plan, order=None):
    """Run a tuning phase to its end, one trial at a time; return the settled plan.

    A supervisor begins anew before every trial, as if it had been killed.
    """
    drawn = random.Random(order)
    while True:
        search = tuner(store, plan)
        left = waiting(search.advance())
        if not left:
            return search.settled()
        finish(store, left[0] if order is None else drawn.choice(left))


def choices(plan):
    return {variant: row.choice for variant, row in plan.tuning.rows.items()}


# Planning


def test_a_row_searches_what_it_does_not_fix_and_what_it_has(tuned_plan):
    spaces = {variant: set(row.space) for variant, row in tuned_plan.tuning.rows.items()}
    assert spaces == {"hira": {RATE}, "no_entropy": {RATE}, "gatera": {RATE, WEIGHT}}
    assert tuned_plan.tuning.rows["gatera"].space[RATE] == Range(1e-4, 1e-1, log=True)
    assert tuned_plan.tuning.total == 18


def test_rows_share_nothing_that_is_searched(tuned_plan):
    assert not tuned_plan.shared().keys() & SEARCH.keys()
    assert "train.batch_size" in tuned_plan.shared()


def test_the_untuned_row_is_tried_first(store, tuned_plan):
    search = tuner(store, tuned_plan)
    search.advance()
    untuned = make_plan(load(tuning=None), Request())
    for variant, row in tuned_plan.tuning.rows.items():
        config = untuned.trials_of(variant)[0].config
        stated = {RATE: config["train"]["learning_rate"], WEIGHT: config["train"]["entropy_weight"]}
        first, *others = [values_of(t, row.space) for t in search.plan.trials_of(variant)]
        assert first == {name: stated[name] for name in row.space} == row.start
        assert len(others) == 2
        assert first not in others


def test_a_row_whose_own_settings_lie_outside_begins_elsewhere(store):
    outside = Tuning({RATE: (1e-4, 5e-3, "log")}, trials=2, round_size=2)
    plan = make_plan(load(tuning=outside), Request())  # at this scale the rate is 1e-2
    assert {row.start for row in plan.tuning.rows.values()} == {None}
    search = tuner(store, plan)
    search.advance()
    for trial in search.plan.trials:
        assert 1e-4 <= trial.config["train"]["learning_rate"] <= 5e-3


def test_a_setting_without_a_number_is_no_start(store):
    scale = Tuning({"adapter.alpha": (1, 64)}, trials=1)  # None, which means r
    plan = make_plan(load(tuning=scale), Request())
    assert {row.start for row in plan.tuning.rows.values()} == {None}


def test_before_the_choice_no_trial_can_be_run_or_taken_for_another(tuned_plan):
    assert tuned_plan.runnable == ()
    untuned = make_plan(load(tuning=None), Request())
    assert untuned.runnable == untuned.trials
    shared = {t.key for t in tuned_plan.trials} & {t.key for t in untuned.trials}
    assert shared == {tuned_plan.trials_of("frozen")[0].key}
    assert Plan.from_json(json.loads(json.dumps(tuned_plan.to_json()))) == tuned_plan
    assert [tuned_plan.undeclared(variant) for variant in tuned_plan.changes] == [[]] * 4


def test_set_fixes_a_field_for_all_and_changes_the_budget():
    overrides = {RATE: 0.02, "tuning.trials": 2, "tuning.steps": None}
    variants = (Variant("static", {"adapter.gate": "static"}), Variant("gatera"))
    plan = make_plan(load(variants=variants), Request(overrides=overrides))
    assert {name for row in plan.tuning.rows.values() for name in row.space} == {WEIGHT}
    assert (plan.tuning.trials, plan.tuning.steps, plan.tuning.validate_every) == (2, None, None)
    assert plan.departures == {"set": overrides}
    assert plan.trials_of("gatera")[0].config["train"]["learning_rate"] == 0.02
    assert make_plan(load(), Request(overrides={"tuning.trials": 6})).departures == {}


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(InputError, match=f"nothing left to tune: {RATE}, {WEIGHT} are fixed"):
        make_plan(load(), Request(overrides={RATE: 0.02, WEIGHT: 0.1}))
    unknown = Tuning(SEARCH, trials=1, by_variant={"hera": {RATE: (0.1, 0.2)}})
    with pytest.raises(InputError, match="no variant 'hera' in this study"):
        load(unknown)
    with pytest.raises(
        InputError, match=r"hira searches train\.warmup_steps, which tuning\.search"
    ):
        Tuning(SEARCH, trials=1, by_variant={"hira": {"train.warmup_steps": (1, 2)}})
    with pytest.raises(InputError, match="low below high"):
        Tuning(SEARCH, trials=1, by_variant={"hira": {RATE: (0.2, 0.1)}})
    with pytest.raises(InputError, match="study made_up has no tuning phase"):
        make_plan(load(tuning=None), Request(overrides={"tuning.trials": 2}))
    with pytest.raises(InputError, match=r"train\.max_steps is no setting that takes any number"):
        make_plan(load(Tuning({"train.max_steps": (1, 9)}, trials=2)), Request())
    with pytest.raises(
        InputError, match=r"tuning\.trials=0: expected a whole number of at least 1"
    ):
        Tuning(SEARCH, trials=0)
    with pytest.raises(InputError, match="low below high"):
        Tuning({RATE: (0.1, 0.01)}, trials=1)
    with pytest.raises(InputError, match="a range in logarithms begins above 0"):
        Tuning({RATE: (0, 0.01, "log")}, trials=1)
    with pytest.raises(InputError, match="expected one of median, hyperband or null"):
        Tuning(SEARCH, trials=1, pruner="best")
    with pytest.raises(InputError, match=r"no setting 'tuning\.trials'"):
        make_plan(load(variants=(Variant("gatera", {"tuning.trials": 3}),)), Request())


def test_a_row_has_a_range_of_its_own_where_the_study_says_so():
    tuning = dataclasses.replace(TUNING, by_variant={"hira": {RATE: (1e-5, 1e-3)}})
    rows = make_plan(load(tuning), Request()).tuning.rows
    assert rows["hira"].space == {RATE: Range(1e-5, 1e-3, log=False)}
    assert rows["gatera"].space[RATE] == Range(1e-4, 1e-1, log=True)


def test_a_row_that_states_all_that_is_searched_is_not_tuned(store):
    plan = make_plan(load(), Request(overrides={RATE: 0.02}))
    assert list(plan.tuning.rows) == ["gatera"]
    settled = run_all(store, plan)
    assert settled.is_tuning is False
    assert settled.trials_of("hira") == plan.trials_of("hira")
    assert settled.trials_of("gatera") != plan.trials_of("gatera")
    assert len(store.plan(plan.tuning_id).trials) == 6


def test_a_tuning_trial_says_nothing_of_test_data(store, tuned_plan):
    tuner(store, tuned_plan).advance()
    stored = store.plan("made_up.tiny.tuning")
    assert stored.runnable == stored.trials
    assert len(stored.trials) == 9  # a round of three for each row
    keys = {trial.key for trial in stored.trials}
    for trial in stored.trials:
        assert trial.is_tuning
        assert trial.config["data"]["tasks"] == []
        splits = {split for files in trial.identities["data"].values() for split in files}
        assert splits == {"train"}
        assert trial.config["train"]["max_steps"] == 40
        assert trial.config["train"]["validation_every"] == 10
        assert trial.seed not in (0, 1)
    assert len(keys) == 9
    assert not any(trial.is_tuning for trial in tuned_plan.trials)


# Choosing


def test_a_fixed_seed_chooses_the_same_point_twice_in_whatever_order_trials_end(
    tmp_path, tuned_plan
):
    found = [
        run_all(Store(tmp_path / str(order), create=True), tuned_plan, order)
        for order in (None, 1, 2)
    ]
    assert choices(found[0]) == choices(found[1]) == choices(found[2])
    assert [t.key for t in found[0].trials] == [t.key for t in found[1].trials]
    plans = [Store(tmp_path / name).plan("made_up.tiny.tuning") for name in ("None", "1", "2")]
    assert plans[0] == plans[1] == plans[2]
    other = make_plan(load(dataclasses.replace(TUNING, seed=1)), Request())
    run_all(Store(tmp_path / "other", create=True), other)
    again = Store(tmp_path / "other").plan("made_up.tiny.tuning")
    space = tuned_plan.tuning.rows["gatera"].space
    tried = [[values_of(t, space) for t in p.trials_of("gatera")] for p in (plans[0], again)]
    assert tried[0][0] == tried[1][0]  # as the row would be untuned
    assert all(values not in tried[0] for values in tried[1][1:])


def test_the_best_point_is_that_of_the_highest_accuracy_then_the_lowest_loss(store, tuned_plan):
    search = tuner(store, tuned_plan)
    search.advance()
    accuracies, losses = (0.5, 0.75, 0.75), (0.25, 0.5, 0.375)
    for variant in tuned_plan.tuning.rows:
        for place, trial in enumerate(search.plan.trials_of(variant)):
            finish(store, trial, accuracies[place], losses[place])
    search.advance()
    for trial in search.plan.trials:
        if not store.has_result(trial.key):
            finish(store, trial, 0.25)
    assert search.settled() is None
    search.advance()
    settled = search.settled()
    best = search.plan.trials_of("gatera")[2]
    choice = settled.tuning.rows["gatera"].choice
    assert choice.settings == values_of(best, tuned_plan.tuning.rows["gatera"].space)
    assert (choice.accuracy, choice.pruned, choice.diverged) == (0.75, 3, 0)
    for trial in settled.trials_of("gatera"):
        assert trial.config["train"]["learning_rate"] == choice.settings[RATE]
        assert trial.config["train"]["entropy_weight"] == choice.settings[WEIGHT]
        assert trial.config["train"]["max_steps"] == 80
    assert settled.trials_of("no_entropy")[0].config["train"]["entropy_weight"] == 0.0
    assert settled.runnable == settled.trials
    assert settled.undeclared("hira") == []
    assert Plan.from_json(json.loads(json.dumps(settled.to_json()))) == settled


def test_every_row_has_the_same_budget_and_it_alone(store, tuned_plan):
    settled = run_all(store, tuned_plan)
    stored = store.plan("made_up.tiny.tuning")
    assert {v: len(stored.trials_of(v)) for v in stored.changes} == dict.fromkeys(
        ("hira", "no_entropy", "gatera"), 6
    )
    snapshot = take_snapshot(store, stored)
    assert snapshot.counts["planned"] == snapshot.counts["done"] == 18
    assert whole_line(snapshot) == "18 of 18 tuning trials done"
    assert settled is not None


def test_a_larger_budget_goes_on_where_the_smaller_ended(store, tmp_path, tuned_plan):
    cut = make_plan(load(dataclasses.replace(TUNING, trials=4)), Request())
    run_all(store, cut)
    before = store.plan("made_up.tiny.tuning").trials_of("gatera")
    assert len(before) == 4
    settled = run_all(store, tuned_plan)
    assert store.plan("made_up.tiny.tuning").trials_of("gatera")[:4] == before
    alone = run_all(Store(tmp_path / "alone", create=True), tuned_plan)
    assert choices(settled) == choices(alone)


def test_another_space_begins_another_search(store, tuned_plan):
    run_all(store, tuned_plan)
    narrow = load(dataclasses.replace(TUNING, search={**SEARCH, RATE: (1e-3, 1e-2, "log")}))
    search = tuner(store, make_plan(narrow, Request()))
    snapshot = search.advance()
    assert len(snapshot.plan.trials) == 9
    assert len(waiting(snapshot)) == 6  # each row's untuned settings were tried already
    for trial in search.plan.trials:
        assert 1e-3 <= trial.config["train"]["learning_rate"] <= 1e-2


def test_a_choice_near_an_end_of_its_range_is_an_edge():
    rate = Range(1e-4, 1e-1, log=True)  # a twentieth of three decades: a factor of 1.41
    assert [is_edge(rate, v) for v in (1e-4, 1.4e-4, 1.5e-4, 0.01, 0.07, 0.072)] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    plain = Range(0.0, 2.0)
    assert [is_edge(plain, v) for v in (0.0625, 0.125, 1.875, 1.9375)] == [True, False, False, True]


def test_a_row_names_the_edges_that_its_choice_hit():
    space = {
        "train.learning_rate": Range(1e-4, 1e-1, log=True),
        "train.entropy_weight": Range(0, 1),
    }
    assert TunedRow(space).edges == ()
    chosen = {"train.learning_rate": 0.09, "train.entropy_weight": 0.5}
    assert TunedRow(space, choice=Choice(chosen, 0.8, 0, 0)).edges == ("train.learning_rate",)


# Several seeds a point

TWICE = dataclasses.replace(TUNING, seeds=2, trials=4, round_size=2)


@pytest.fixture
def twice(store):
    """The plan of a search whose points have two trials each, and its first round."""
    plan = make_plan(load(TWICE), Request())
    assert plan.tuning.total == 24
    search = tuner(store, plan)
    search.advance()
    return plan, search


def points_of(search, variant="gatera"):
    trials = search.plan.trials_of(variant)
    return [trials[first : first + 2] for first in range(0, len(trials), 2)]


def test_each_point_has_a_trial_of_each_tuning_seed(store, twice):
    plan, search = twice
    space = plan.tuning.rows["gatera"].space
    points = points_of(search)
    assert len(points) == 2
    for one, other in points:
        assert values_of(one, space) == values_of(other, space)
        assert other.seed == one.seed + 1
    assert len({trial.key for point in points for trial in point}) == 4
    first, *_ = tuning_lines(describe_tuning(plan, None))
    assert "4 trials a row of 40 steps, each with 2 seeds, 24 in all, 24 left" in first
    settled = run_all(store, plan, order=3)  # another supervisor before each of its trials
    stored = store.plan(plan.tuning_id)
    assert len(stored.trials) == 24
    assert [t.key for t in stored.trials_of("gatera")[:4]] == [t.key for p in points for t in p]
    assert store.tuning_plan(settled) == stored
    record = gather(store, settled)
    (row,) = [each for each in record.rows if each.variant == "gatera"]
    # A point that counts as pruned may have come to its end before it was told.
    assert 8 - 2 * row.tuning.pruned <= len(row.tuning.results) <= 8
    assert "| 4 × 2 seeds" in " | ".join(["", *tuning_cells(build_table(record)).lines[-1]])


def test_the_mean_over_tuning_seeds_chooses(store, twice):
    plan, search = twice
    (good, alone), (steady, also) = points_of(search)
    finish(store, good, 0.9)
    finish(store, alone, 0.25)  # at the edge of what trains
    finish(store, steady, 0.625)
    finish(store, also, 0.75)
    for trial in waiting(search.advance()):
        finish(store, trial, 0.125)
    while left := waiting(search.advance()):
        for trial in left:
            finish(store, trial, 0.125)
    choice = search.settled().tuning.rows["gatera"].choice
    assert choice.settings == values_of(steady, plan.tuning.rows["gatera"].space)
    assert choice.accuracy == pytest.approx(0.6875)
    assert choice.diverged == 0


def test_a_point_ends_with_one_seed_that_diverges_and_waits_for_one_that_runs(store, twice):
    plan, search = twice
    (broken, spared), (half, missing) = points_of(search)
    fail(store, broken, "not_finite")
    finish(store, half, 0.5)
    snapshot = search.advance()
    assert snapshot.statuses[spared.key].state == "pruned"
    assert snapshot.statuses[missing.key].state == "waiting"
    assert len(points_of(search)) == 2  # the round goes on
    finish(store, missing, 0.5)
    settled = run_all(store, plan)
    choice = settled.tuning.rows["gatera"].choice
    assert choice.diverged == 1
    assert choice.settings != values_of(broken, plan.tuning.rows["gatera"].space)


def test_a_hopeless_point_is_pruned_by_the_mean_of_its_seeds(store, twice):
    _, search = twice
    for place, point in enumerate(points_of(search)):
        for trial in point:
            finish(store, trial, 0.5, curve=(0.25 + 0.125 * place,) * 3)
    search.advance()
    (bad, badly), (good, uneven) = points_of(search)[2:]
    claims = [
        write_validations(store, bad, [0.0]),
        write_validations(store, badly, [0.25]),
        write_validations(store, good, [0.0]),  # alone it would have been ended
        write_validations(store, uneven, [0.875]),
    ]
    search.advance()
    pruned = [store.is_pruned(t.key) for t in (bad, badly, good, uneven)]
    assert pruned == [True, True, False, False]
    for claim in claims:
        claim.release()


# Pruning


def test_a_hopeless_trial_is_pruned_by_the_rounds_before_and_is_no_failure(store, tuned_plan):
    search = tuner(store, tuned_plan)
    search.advance()
    first = search.plan.trials_of("gatera")
    for place, trial in enumerate(first):
        finish(store, trial, 0.5, curve=(0.25 + 0.125 * place,) * 3)
    search.advance()
    bad, good, slow = search.plan.trials_of("gatera")[3:]
    claims = [
        write_validations(store, bad, [0.125]),
        write_validations(store, good, [0.75]),
        write_validations(store, slow, []),
    ]
    search.advance()
    assert [store.is_pruned(t.key) for t in (bad, good, slow)] == [True, False, False]
    for claim in claims:
        claim.release()
    snapshot = search.advance()
    assert snapshot.statuses[bad.key].state == "pruned"
    assert snapshot.counts["failed"] == 0
    finish(store, good, 0.75, curve=(0.75,) * 3)
    finish(store, slow, 0.875, curve=(0.125, 0.75, 0.75))  # came to its end before it was told
    for variant in ("hira", "no_entropy"):
        while left := [t for t in waiting(search.advance()) if t.variant == variant]:
            finish(store, left[0])
    settled = search.settled()
    choice = settled.tuning.rows["gatera"].choice
    assert choice.settings == values_of(good, tuned_plan.tuning.rows["gatera"].space)
    assert choice.pruned == 2


def test_what_is_pruned_depends_on_no_trial_of_the_same_round():
    for pruner in ("median", "hyperband"):
        search = Search(
            {RATE: Range(1e-4, 1e-1, log=True)},
            seed=0,
            round_size=3,
            pruner=pruner,
            steps=40,
            first_step=10,
        )
        values = [search.propose([])]
        values += [search.propose(values)]
        values += [search.propose(values)]
        assert len({each[RATE] for each in values}) == 3
        good = {10: 0.5, 20: 0.5, 30: 0.5}
        courses = [Course(each, good, 0.5) for each in values]
        assert [search.judge(n, c) for n, c in enumerate(courses)] == [None] * 3
        for _ in range(3):
            search.conclude(courses)
        bad = Course(values[0], dict.fromkeys(good, 0.25))
        judged = {search.judge(place, bad) for place in range(3)}
        assert judged == ({10} if pruner == "median" else judged)
        assert judged & {10, 20, 30}
        assert search.judge(0, courses[0]) is None
        assert search.survivors() == list(range(9))


def test_a_trial_that_later_results_speak_for_runs_again(store, tuned_plan):
    search = tuner(store, tuned_plan)
    search.advance()
    trial = search.plan.trials_of("hira")[0]
    store.prune(trial.key, 10)
    snapshot = search.advance()
    assert not store.is_pruned(trial.key)
    assert snapshot.statuses[trial.key].state == "waiting"


# Failing


def fail(store, trial, kind):
    for attempt in (1, 2):
        store.claim(trial.key, {}).release()
        note_end(store, trial.key, attempt, kind, "it broke", "")


def test_a_trial_that_diverges_is_the_worst_and_no_failure_of_the_phase(store, tuned_plan):
    search = tuner(store, tuned_plan)
    search.advance()
    diverged = search.plan.trials_of("hira")[1]
    fail(store, diverged, "not_finite")
    settled = run_all(store, tuned_plan)
    choice = settled.tuning.rows["hira"].choice
    assert choice.diverged == 1
    assert choice.settings[RATE] != diverged.config["train"]["learning_rate"]


def test_a_row_that_always_diverges_is_named(store):
    plan = make_plan(load(dataclasses.replace(TUNING, trials=2)), Request())
    search = tuner(store, plan)
    for trial in waiting(search.advance()):
        if trial.variant == "hira":
            fail(store, trial, "not_finite")
        else:
            finish(store, trial)
    search.advance()
    with pytest.raises(InputError, match="every tuning trial of hira diverged"):
        search.settled()


def test_a_trial_that_fails_otherwise_holds_up_the_choice(store, tuned_plan):
    search = tuner(store, tuned_plan)
    search.advance()
    fail(store, search.plan.trials_of("hira")[1], "bug")
    assert run_all(store, tuned_plan) is None


# Whole runs


@pytest.fixture
def run(tracked, tuned_plan, tmp_path, monkeypatch):
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def run_study(course=None, **options):
        monkeypatch.setenv("MADE_UP", json.dumps(course or {}))
        tracked.write_plan(tuned_plan)
        return run_here(tracked, tuned_plan.id, "local", tmp_path / "reports", **options)

    return run_study


def kill_in_the_middle(store):
    """Begin a run; kill it and its workers when two tuning trials are done."""
    process = start_run(store, pause=0.05)
    deadline = time.monotonic() + 120
    while len(list(store.folder.glob("trials/*/result.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    for worker in noted(store.folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(worker.split("/")[1]), signal.SIGKILL)


def test_a_killed_run_tunes_on_then_runs_the_seeds_at_the_best_point(
    run, store, tuned_plan, tmp_path, monkeypatch
):
    store.write_plan(tuned_plan)
    kill_in_the_middle(store)
    begun = store.plan("made_up.tiny.tuning").trials
    done = {t.key for t in begun if store.has_result(t.key)}
    outcome = run()
    assert {key: store.claims.newest(key) for key in done} == dict.fromkeys(done, 1)
    alone = run_all(Store(tmp_path / "alone", create=True), tuned_plan)
    assert choices(store.plan("made_up.tiny")) == choices(alone)
    assert outcome.warnings == ()
    assert outcome.snapshot.counts["done"] == 7
    settled = store.plan("made_up.tiny")
    row = settled.tuning.rows["gatera"]
    tried = store.plan("made_up.tiny.tuning").trials_of("gatera")
    best = max(tried, key=merit_of)
    assert row.choice.settings == values_of(best, row.space)
    text = outcome.report.markdown
    assert "## Tuning" in text
    rate = f"train.learning_rate = {row.choice.settings[RATE]:.3g}"
    line = next(line for line in text.splitlines() if line.startswith("| gatera | 6"))
    assert rate in line
    assert "train.learning_rate 0.0001 to 0.1, train.entropy_weight 0.0001 to 1" in line
    assert "Nothing was tuned" not in text
    all_told = optuna_trials(store, "made_up.tiny.tuning")
    assert len(all_told) == 18
    told = {t.user_attrs["key"]: t for t in all_told if t.user_attrs["row"] == "gatera"}
    assert {key: t.params for key, t in told.items()} == {
        t.key: values_of(t, row.space) for t in tried
    }
    space = {name: FloatDistribution(each[0], each[1], log=True) for name, each in SEARCH.items()}
    assert all(t.distributions == space for t in told.values())
    finished = {t.key: merit_of(t) for t in tried if store.has_result(t.key)}
    assert {key: t.value for key, t in told.items() if t.state.name == "COMPLETE"} == finished
    assert all(told[key].last_step == 4 for key in finished)
    assert len(optuna_trials(store, "made_up.tiny")) == 7
    attempts = {t.key: store.claims.newest(t.key) for t in (*settled.trials, *tried)}
    again = run()
    assert again.report.markdown == text
    assert attempts == {key: store.claims.newest(key) for key in attempts}
    monkeypatch.setattr(
        "gatera.studies.store.staleness.training_code", lambda config: {"a.py": "new"}
    )
    record = gather(store, settled)
    assert any("18 of the tuning trials were run by other code" in note for note in record.notes)


@pytest.mark.parametrize(
    ("stated", "fixed", "steps", "cell"),
    [
        (40, {}, 40, "40"),
        (None, {}, 80, "80"),
        (None, {"train.max_steps": None, "train.epochs": 1}, None, "as its seeds"),
    ],
)
def test_the_report_says_how_long_tuning_trials_trained(store, stated, fixed, steps, cell):
    loaded = load(dataclasses.replace(TUNING, trials=1, steps=stated))
    settled = run_all(store, make_plan(loaded, Request(overrides=fixed)))
    record = gather(store, settled)
    assert [row.tuning.steps for row in record.rows if row.tuning] == [steps] * 3
    lines = tuning_cells(build_table(record)).lines
    assert [line[2] for line in lines] == [cell] * 3


def test_a_failed_tuning_trial_stops_the_table_and_says_so(run, store, tmp_path):
    repaired = tmp_path / "repaired"
    course = {"broken_variant": "hira", "repaired": str(repaired)}
    outcome = run(course)
    assert outcome.snapshot.plan.is_tuning
    assert [trial.variant for trial in outcome.snapshot.failed] == ["hira"] * 3
    assert "the rows are still being tuned" in outcome.report.markdown
    assert not any(store.claims.newest(t.key) for t in store.plan("made_up.tiny").trials)
    repaired.touch()
    again = run(course, retry="failed")
    assert again.snapshot.counts["done"] == 7
