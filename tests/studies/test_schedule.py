import dataclasses
import json

import optuna
from made_up import commit_result
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gatera.studies import search
from gatera.studies.store import Failure

COMPLETE, RUNNING, FAIL, PRUNED = (
    optuna.trial.TrialState[name] for name in ("COMPLETE", "RUNNING", "FAIL", "PRUNED")
)


def optuna_trials(store, name="made_up.tiny"):
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def test_every_planned_trial_is_in_optuna_once(store, plan):
    for _ in range(3):
        search.sync(store, [plan])
    trials = optuna_trials(store)
    assert [trial.user_attrs["key"] for trial in trials] == [trial.key for trial in plan.trials]
    assert [trial.params for trial in trials] == [
        {"variant": trial.variant, "seed": trial.seed} for trial in plan.trials
    ]
    assert {trial.state for trial in trials} == {RUNNING}


def test_a_result_is_told(store, plan):
    search.sync(store, [plan])
    commit_result(store, plan.trials[3], 0.625)
    search.sync(store, [plan])
    told = optuna_trials(store)[3]
    assert (told.state, told.value) == (COMPLETE, 0.625)


def test_a_failed_trial_that_then_succeeds_is_told_anew(store, plan):
    key = plan.trials[0].key
    for attempt in (1, 2):
        store.claim(key, {}).release()
        store.write_failure(key, Failure(attempt, "bug", "it broke", ""))
    search.sync(store, [plan])
    assert optuna_trials(store)[0].state == FAIL
    commit_result(store, plan.trials[0], 0.5)
    search.sync(store, [plan])
    trials = optuna_trials(store)
    assert len(trials) == len(plan.trials)
    assert (trials[0].state, trials[0].value) == (COMPLETE, 0.5)


def test_a_new_variant_joins_the_study(store, plan):
    search.sync(store, [plan])
    more = dataclasses.replace(
        plan,
        changes={**plan.changes, "another": {}},
        trials=(*plan.trials, dataclasses.replace(plan.trials[-1], variant="another", seed=77)),
    )
    search.sync(store, [more])
    assert optuna_trials(store)[-1].params == {"variant": "another", "seed": 77}
    assert len(optuna_trials(store)) == 11


def test_asking_that_was_cut_short_anywhere_is_made_good(store, plan):
    few = dataclasses.replace(plan, trials=plan.trials[:2])
    search.sync(store, [few])
    journal = store.folder / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        journal.write_bytes(b"".join(lines[:kept]))
        search.sync(store, [few])
        found = [(t.params, t.user_attrs["key"]) for t in optuna_trials(store)]
        assert found == [({"variant": t.variant, "seed": t.seed}, t.key) for t in few.trials]


def test_a_torn_journal_is_read_again(store, plan):
    search.sync(store, [plan])
    journal = store.folder / "optuna.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "trial_')
    commit_result(store, plan.trials[0], 0.5)
    search.sync(store, [plan])
    for line in journal.read_text().splitlines():
        json.loads(line)
    assert len(optuna_trials(store)) == 10
    assert optuna_trials(store)[0].value == 0.5


def test_a_lost_journal_comes_back_equal(store, plan):
    commit_result(store, plan.trials[0], 0.5)
    search.sync(store, [plan])
    before = [(t.params, t.value, t.state, t.user_attrs) for t in optuna_trials(store)]
    (store.folder / "optuna.journal").unlink()
    search.sync(store, [plan])
    assert [(t.params, t.value, t.state, t.user_attrs) for t in optuna_trials(store)] == before


def write_validations(store, trial, accuracies, *, attempt=1, first=40):
    lines = [
        {"phase": "validate", "step": first + 40 * place, "val/accuracy": accuracy}
        for place, accuracy in enumerate(accuracies)
    ]
    path = store.attempt_folder(trial.key, attempt) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_validations_are_intermediate_values_once(store, plan):
    trial = plan.trials[3]
    store.claim(trial.key, {}).release()
    write_validations(store, trial, [0.25, 0.5])
    search.sync(store, [plan])
    claim = store.claim(trial.key, {})
    write_validations(store, trial, [0.5, 0.75], attempt=2, first=80)  # resumed: repeats step 80
    search.sync(store, [plan])
    assert optuna_trials(store)[3].intermediate_values == {40: 0.25, 80: 0.5, 120: 0.75}
    claim.release()
