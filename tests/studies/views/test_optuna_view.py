import dataclasses
import json
import os
import time
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from made_up import commit_result, note_end
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_journal import optuna_study, optuna_trials

from gatera.studies import Study, Variant
from gatera.studies.catalog import LoadedStudy
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.store import Store
from gatera.studies.views.optuna_view import OptunaView, drop_other_studies
from gatera.trial import Trial

COMPLETE, FAIL, PRUNED = (optuna.trial.TrialState[name] for name in ("COMPLETE", "FAIL", "PRUNED"))
RATE, GATE, RANK = "train.learning_rate", "adapter.gate", "adapter.r"
LENGTH = ("train.max_steps", "train.epochs")


def optuna_studies(store):
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    return optuna.get_all_study_names(storage)


def by_key(store, name="made_up.tiny"):
    found = optuna_trials(store, name)
    assert len({trial.user_attrs["key"] for trial in found}) == len(found)
    return {trial.user_attrs["key"]: trial for trial in found}


def sync(store, plan, **options):
    OptunaView(store, plan, **options).sync()


def commit(store, trial, score, *, claimed_at=0.0, seconds=10.0, **options):
    """Let a trial end with a result; its claim and its clock say when."""
    result = commit_result(store, trial, score, seconds=seconds, **options)
    note_claim(store, trial, result.attempt, claimed_at)
    return result


def note_claim(store, trial, attempt, claimed_at):
    claim = store.trial_folder(trial.key) / f"claim.{attempt}"
    claim.write_text(json.dumps({"worker": "test", "claimed_at": claimed_at}))


def fail(store, trial, *, attempts=(1, 2), claimed_at=0.0):
    for attempt in attempts:
        store.claim(trial.key, {"claimed_at": claimed_at + attempt}).release()
        note_end(store, trial.key, attempt, "bug", "it broke", "", seconds=28.0)


def write_validations(store, trial, accuracies, *, attempt=1, first=40):
    lines = [
        {"phase": "validate", "step": first + 40 * place, "val/accuracy": accuracy}
        for place, accuracy in enumerate(accuracies)
    ]
    path = store.attempt_folder(trial.key, attempt) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def planned(*variants, seeds=(0, 1, 2), **request):
    study = Study(variants, reference=variants[-1].name, seeds=seeds)
    return make_plan(
        LoadedStudy("made_up", study, Path("made_up.py"), "s" * 64), Request(**request)
    )


# Which trials, and what is said of them


def test_a_trial_is_in_the_view_once_it_has_ended(store, plan):
    sync(store, plan)
    assert optuna_trials(store) == []
    running = store.claim(plan.trials[1].key, {})
    assert running is not None
    commit(store, plan.trials[3], 0.625)
    sync(store, plan)
    (told,) = optuna_trials(store)
    trial = plan.trials[3]
    assert (told.state, told.value) == (COMPLETE, 0.625)
    assert told.user_attrs == {"key": trial.key, "row": trial.variant, "seed": trial.seed}
    running.release()


def test_times_are_those_of_the_store_whenever_it_is_looked_at(store, plan):
    trial, failed, interrupted = plan.trials[1:4]
    began = datetime(2024, 5, 17, 8, 30, 0, 250_000)
    at = began.timestamp()
    commit(store, trial, 0.5, claimed_at=at)
    store.claim(interrupted.key, {"claimed_at": at}).release()
    commit(store, interrupted, 0.75, claimed_at=at + 60, seconds=4.0)
    fail(store, failed, claimed_at=at)
    sync(store, plan)
    ended = {key: (t.datetime_start, t.datetime_complete) for key, t in by_key(store).items()}
    assert {key: start.timestamp() - at for key, (start, _) in ended.items()} == {
        trial.key: 0,
        interrupted.key: 0,  # its first claim; its second gave the result
        failed.key: 1,
    }
    assert {key: end.timestamp() - at for key, (_, end) in ended.items()} == {
        trial.key: 10,
        interrupted.key: 64,
        failed.key: 30,
    }
    assert by_key(store)[trial.key].datetime_start == began


def test_a_claim_that_does_not_say_when_it_was_made_has_its_file(store, plan):
    trial = plan.trials[1]
    commit_result(store, trial, 0.5)
    claim = store.trial_folder(trial.key) / "claim.1"
    claim.write_text("{")
    os.utime(claim, (5000, 5000))
    sync(store, plan)
    assert optuna_trials(store)[0].datetime_start.timestamp() == 5000


def test_trials_stand_in_the_order_in_which_they_ended(store, plan):
    for place, trial in enumerate(plan.trials):
        commit(store, trial, 0.5, claimed_at=1000.0 - 10 * place)
    sync(store, plan)
    keys = [trial.user_attrs["key"] for trial in optuna_trials(store)]
    assert keys == [trial.key for trial in reversed(plan.trials)]


def test_validations_are_intermediate_values(store, plan):
    trial = plan.trials[3]
    store.claim(trial.key, {}).release()
    write_validations(store, trial, [0.25, 0.5])
    write_validations(store, trial, [0.5, 0.75], attempt=2, first=80)  # resumed: repeats step 80
    commit(store, trial, 0.625)
    sync(store, plan)
    assert optuna_trials(store)[0].intermediate_values == {40: 0.25, 80: 0.5, 120: 0.75}


def test_a_pruned_trial_ended_with_its_attempt(store, plan):
    trial = plan.trials[3]
    store.claim(trial.key, {"claimed_at": 1000.0}).release()
    write_validations(store, trial, [0.25, 0.125])
    store.prune(trial.key, 80)
    note_end(store, trial.key, 1, "pruned", seconds=61.5)
    sync(store, plan)
    (told,) = optuna_trials(store)
    assert (told.state, told.value, told.duration.total_seconds()) == (PRUNED, 0.125, 61.5)


def test_a_trial_that_may_run_again_has_not_ended(store, plan):
    failed, pruned, live = plan.trials[1:4]
    fail(store, failed, attempts=(1,))
    store.prune(pruned.key, 40)  # no attempt was made at it
    fail(store, live)
    claim = store.claim(live.key, {})
    sync(store, plan)
    assert optuna_trials(store) == []
    claim.release()
    sync(store, plan)
    assert [trial.state for trial in optuna_trials(store)] == [FAIL]
    sync(store, plan, max_attempts=3)
    assert optuna_trials(store) == []


# Settings


def finish_all(store, plan, score=lambda trial: 0.5):
    for trial in plan.trials:
        commit(store, trial, score(trial))
    sync(store, plan)


def test_parameters_are_the_settings_in_which_rows_differ(store):
    plan = planned(
        Variant("static", {GATE: "static"}),
        Variant("slow", {RATE: 0.001}),
        Variant("half", {"train.dtype": "bfloat16"}),  # the frozen backbone has one too
        Variant("wide", {"adapter.target_modules": ["q_proj", "v_proj"]}),
        Variant("long", {"train.max_steps": None, "train.epochs": 2}, confounds=LENGTH),
        Variant("gatera"),
        seeds=(0, 1),
    )
    finish_all(store, plan)
    config = plan.trials_of("gatera")[0].config
    names = {GATE, RATE, "adapter.target_modules", "train.dtype", *LENGTH}
    for told in optuna_trials(store):
        row = told.user_attrs["row"]
        assert told.params.keys() == (set() if row == "frozen" else names)
    told = {trial.user_attrs["row"]: trial for trial in optuna_trials(store)}
    assert told["static"].params[GATE] == "static"
    assert told["gatera"].params[GATE] == "token"
    assert told["gatera"].distributions[GATE] == CategoricalDistribution(["static", "token"])
    rates = FloatDistribution(0.001, config["train"]["learning_rate"])
    assert told["slow"].params[RATE] == 0.001
    assert told["gatera"].distributions[RATE] == rates
    assert told["wide"].params["adapter.target_modules"] == '["q_proj","v_proj"]'
    assert (told["long"].params["train.epochs"], told["gatera"].params["train.epochs"]) == (
        "2",
        "null",
    )


def test_a_curve_over_the_rank_has_it_as_a_whole_number(store):
    rows = [
        Variant(f"{name}_r{r}", {**changes, RANK: r})
        for name, changes in (("hira", {GATE: "none"}), ("gatera", {}))
        for r in (2, 4, 32)
    ]
    finish_all(store, planned(*rows), lambda trial: 0.5)
    for told in optuna_trials(store):
        if told.user_attrs["row"] == "frozen":
            continue
        assert told.distributions == {
            GATE: CategoricalDistribution(["none", "token"]),
            RANK: IntDistribution(2, 32),
        }
        assert f"r{told.params[RANK]}" == told.user_attrs["row"].partition("_")[2]
        assert type(told.params[RANK]) is int


def test_a_setting_that_a_row_lacks_is_left_out_of_it(store):
    plan = planned(Variant("hira", {GATE: "none"}), Variant("narrow", {RANK: 4}), Variant("gatera"))

    def without_rank(trial):
        adapter = {name: v for name, v in trial.config["adapter"].items() if name != "r"}
        return dataclasses.replace(trial, config={**trial.config, "adapter": adapter})

    trials = tuple(without_rank(t) if t.variant == "hira" else t for t in plan.trials)
    finish_all(store, dataclasses.replace(plan, trials=trials))
    found = {trial.user_attrs["row"]: set(trial.params) for trial in optuna_trials(store)}
    assert found == {
        "frozen": set(),
        "hira": {GATE},
        "narrow": {GATE, RANK},
        "gatera": {GATE, RANK},
    }


def test_importance_speaks_of_settings_and_never_of_the_seed(store):
    rows = [
        Variant(f"{gate}_{weight}", {GATE: gate, "train.entropy_weight": weight / 100})
        for gate in ("static", "token")
        for weight in (0, 1)
    ]
    plan = planned(*rows, seeds=tuple(range(8)))
    finish_all(
        store,
        plan,
        lambda trial: (
            0.25
            if trial.is_frozen
            else 0.5 + 0.25 * (trial.config["adapter"]["gate"] == "token") + 0.001 * trial.seed
        ),
    )
    importances = optuna.importance.get_param_importances(optuna_study(store))
    assert importances.keys() == {GATE, "train.entropy_weight"}
    assert importances[GATE] > importances["train.entropy_weight"]
    best = optuna_study(store).best_trial
    assert best.params[GATE] == "token"
    assert best.user_attrs["seed"] == 7


# Studies


def test_a_departure_is_a_study_of_its_own(store, study):
    plans = [make_plan(study, Request(overrides={RATE: rate})) for rate in (0.02, 0.005)]
    plans.append(make_plan(study, Request()))
    for plan in plans:
        commit(store, plan.trials_of("gatera")[0], 0.5)
        sync(store, plan)
    assert len(set(optuna_studies(store))) == 3
    for plan in plans:
        (told,) = optuna_trials(store, plan.id)
        assert told.user_attrs["key"] == plan.trials_of("gatera")[0].key
        assert told.params == {GATE: "token"}


def test_the_value_is_the_endpoint_and_a_result_without_it_counts_as_failed(store, study):
    weighed = dataclasses.replace(
        study, study=dataclasses.replace(study.study, endpoint="log_probability")
    )
    plan = make_plan(weighed, Request(seeds=2))
    with_it, without = plan.trials_of("gatera")
    commit(store, with_it, 0.5, metrics={"test/log_probability": -0.75})
    commit(store, without, 0.5)
    sync(store, plan)
    told = by_key(store, plan.id)
    assert told[with_it.key].value == -0.75
    assert told[without.key].state == FAIL
    assert optuna_study(store, plan.id).metric_names == ["test/log_probability"]


def test_a_study_says_what_its_numbers_are(store, plan):
    sync(store, plan)
    found = optuna_study(store)
    assert found.metric_names == ["test/accuracy"]
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    assert found.user_attrs == {
        "best_trial": "one seed of one row; rows are compared in the report made_up.tiny"
    }
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    attributes = storage.get_study_system_attrs(0)
    assert attributes["dashboard:note_ver"] == 1
    assert "in the report `made_up.tiny`" in attributes["dashboard:note_str:0"]
    assert "best trial is one seed of one row" in attributes["dashboard:note_str:0"]


def test_a_note_of_the_readers_own_stays(store, plan):
    sync(store, plan)
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    storage.set_study_system_attr(0, "dashboard:note_str:0", "mine")
    storage.set_study_system_attr(0, "dashboard:note_ver", 2)
    view = OptunaView(store, plan)
    for trial in plan.trials[1:3]:
        commit(store, trial, 0.5)
        view.sync()
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    assert storage.get_study_system_attrs(0)["dashboard:note_str:0"] == "mine"
    assert len(optuna_trials(store)) == 2


def test_studies_of_no_plan_are_dropped(store, plan):
    sync(store, plan)
    sync(store, dataclasses.replace(plan, study="gone"))
    drop_other_studies(store, ["made_up.tiny", "not_yet.tiny"])
    assert optuna_studies(store) == ["made_up.tiny"]


# The store changes


def changed_and_begun_anew(store, plan, view):
    """Return what the study holds after another `sync`, by a view that knew it and by a new one."""
    view.sync()
    found = by_key(store)
    journal = (store.folder / "optuna.journal").read_bytes()
    sync(store, plan)
    assert (store.folder / "optuna.journal").read_bytes() == journal
    return found


def test_what_contradicts_the_store_is_told_anew(store, plan):
    first, second, failed, pruned = plan.trials[1:5]
    commit(store, first, 0.25)
    commit(store, second, 0.5)
    fail(store, failed)
    store.claim(pruned.key, {}).release()
    store.prune(pruned.key, 40)
    view = OptunaView(store, plan)
    view.sync()
    assert [trial.state for trial in by_key(store).values()].count(COMPLETE) == 2
    store.retire_result(first.key, "0123456789abcdef")  # by `run --retry stale`
    assert changed_and_begun_anew(store, plan, view).keys() == {second.key, failed.key, pruned.key}
    commit(store, first, 0.75)
    assert changed_and_begun_anew(store, plan, view)[first.key].value == 0.75
    store.forgive_failures(failed.key)
    assert failed.key not in changed_and_begun_anew(store, plan, view)
    commit(store, failed, 0.375)
    commit(store, pruned, 0.125)
    found = changed_and_begun_anew(store, plan, view)
    assert {key: (t.state, t.value) for key, t in found.items()} == {
        first.key: (COMPLETE, 0.75),
        second.key: (COMPLETE, 0.5),
        failed.key: (COMPLETE, 0.375),
        pruned.key: (COMPLETE, 0.125),
    }
    store.predictions_path(first.key, 2).write_text("damaged")
    assert first.key not in changed_and_begun_anew(store, plan, view)


def test_a_plan_whose_settings_changed_is_told_anew(store, study, plan):
    trial = plan.trials_of("gatera")[0]
    commit(store, trial, 0.5)
    sync(store, plan)
    assert set(by_key(store)[trial.key].params) == {GATE}
    variants = (*study.study.variants, Variant("narrow", {RANK: 4}))
    stated = dataclasses.replace(study.study, variants=variants)
    more = make_plan(dataclasses.replace(study, study=stated), Request())
    sync(store, more)
    assert by_key(store)[trial.key].params == {GATE: "token", RANK: trial.config["adapter"]["r"]}
    fewer = dataclasses.replace(plan, trials=plan.trials[4:])
    sync(store, fewer)
    assert optuna_trials(store) == []


# The journal


def test_a_repetition_writes_nothing(store, plan):
    for trial in plan.trials[:4]:
        commit(store, trial, 0.5)
    fail(store, plan.trials[4])
    view = OptunaView(store, plan)
    view.sync()
    journal = store.folder / "optuna.journal"
    before = journal.read_bytes()
    view.sync()
    sync(store, plan)
    assert journal.read_bytes() == before
    commit(store, plan.trials[5], 0.5)
    view.sync()
    assert journal.read_bytes().startswith(before)
    assert journal.read_bytes().count(b"\n") == before.count(b"\n") + 1
    assert len(by_key(store)) == 6


def test_writing_that_was_cut_short_anywhere_is_made_good(store, plan):
    for trial in plan.trials[:3]:
        commit(store, trial, 0.5)
    journal = store.folder / "optuna.journal"
    sync(store, plan)
    store.retire_result(plan.trials[0].key, "stale")
    sync(store, plan)  # so that the study is deleted and made again
    commit(store, plan.trials[0], 0.75)
    whole = journal.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for end in sorted({0, *ends, *(end - 7 for end in ends), *range(0, len(whole), 501)}):
        journal.write_bytes(whole[:end])
        sync(store, plan)
        assert {key: t.value for key, t in by_key(store).items()} == {
            plan.trials[0].key: 0.75,
            plan.trials[1].key: 0.5,
            plan.trials[2].key: 0.5,
        }
        found = optuna_study(store)
        assert found.metric_names == ["test/accuracy"]
        assert found.user_attrs.keys() == {"best_trial"}
        assert "dashboard:note_ver" in found._storage.get_study_system_attrs(found._study_id)


def test_a_lost_or_damaged_journal_comes_back_equal(store, plan):
    view = OptunaView(store, plan)
    for place, trial in enumerate(plan.trials[:5]):
        commit(store, trial, 0.5, claimed_at=1000.0 + 60 * place)
        view.sync()
    before = optuna_trials(store)
    journal = store.folder / "optuna.journal"
    journal.unlink()
    view.sync()
    assert optuna_trials(store) == before
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    view.sync()
    assert optuna_trials(store) == before
    assert journal.with_name("optuna.journal.damaged-1").exists()


def test_a_journal_of_another_making_is_begun_anew(store, plan):
    commit(store, plan.trials[0], 0.5)
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    other = optuna.create_study(study_name="made_up.tiny", storage=storage)
    other.ask({"seed": IntDistribution(0, 9)})  # it runs for ever
    sync(store, plan)
    assert [trial.state for trial in optuna_trials(store)] == [COMPLETE]


def test_looking_at_a_thousand_trials_with_nothing_new_is_cheap(store, plan, monkeypatch):
    trials = tuple(dataclasses.replace(plan.trials[1], seed=seed) for seed in range(1000))
    large = dataclasses.replace(plan, trials=trials)
    for trial in trials[:3]:
        commit(store, trial, 0.5)
    view = OptunaView(store, large)
    view.sync()

    def refuse(*arguments):
        raise AssertionError("it reads what it knows")

    monkeypatch.setattr(JournalFileBackend, "read_logs", refuse)
    monkeypatch.setattr(Store, "metrics", refuse)
    monkeypatch.setattr(Trial, "key", property(refuse))
    began = time.perf_counter()
    view.sync()
    assert time.perf_counter() - began < 1.0  # some 30 ms


@pytest.mark.parametrize("first_is_written", [True, False])
def test_equal_rows_share_their_trials(store, first_is_written):
    plan = planned(Variant("twin"), Variant("gatera"), seeds=(0,))
    if first_is_written:
        commit(store, plan.trials_of("twin")[0], 0.5)
    sync(store, plan)
    assert len(optuna_trials(store)) == int(first_is_written)
