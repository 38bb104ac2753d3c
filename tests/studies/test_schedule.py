import dataclasses
import json

import optuna
from made_up import commit_result
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gatera.studies import schedule
from gatera.studies.store import Failure

COMPLETE, RUNNING, FAIL, PRUNED = (
    optuna.trial.TrialState[name] for name in ("COMPLETE", "RUNNING", "FAIL", "PRUNED")
)


def optuna_trials(store, name="made_up.tiny"):
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def test_every_planned_trial_is_in_optuna_once(store, plan):
    for _ in range(3):
        schedule.sync(store, [plan])
    trials = optuna_trials(store)
    assert [trial.user_attrs["key"] for trial in trials] == [trial.key for trial in plan.trials]
    assert [trial.params for trial in trials] == [
        {"variant": trial.variant, "seed": trial.seed} for trial in plan.trials
    ]
    assert {trial.state for trial in trials} == {RUNNING}


def test_a_result_is_told(store, plan):
    schedule.sync(store, [plan])
    commit_result(store, plan.trials[3], 0.625)
    schedule.sync(store, [plan])
    told = optuna_trials(store)[3]
    assert (told.state, told.value) == (COMPLETE, 0.625)


def test_a_failed_trial_that_then_succeeds_is_told_anew(store, plan):
    key = plan.trials[0].key
    for attempt in (1, 2):
        store.claim(key, {}).release()
        store.write_failure(key, Failure(attempt, "bug", "it broke", ""))
    schedule.sync(store, [plan])
    assert optuna_trials(store)[0].state == FAIL
    commit_result(store, plan.trials[0], 0.5)
    schedule.sync(store, [plan])
    trials = optuna_trials(store)
    assert len(trials) == len(plan.trials)
    assert (trials[0].state, trials[0].value) == (COMPLETE, 0.5)


def test_a_new_variant_joins_the_study(store, plan):
    schedule.sync(store, [plan])
    more = dataclasses.replace(
        plan,
        changes={**plan.changes, "another": {}},
        trials=(*plan.trials, dataclasses.replace(plan.trials[-1], variant="another", seed=77)),
    )
    schedule.sync(store, [more])
    assert optuna_trials(store)[-1].params == {"variant": "another", "seed": 77}
    assert len(optuna_trials(store)) == 11


def test_a_torn_journal_is_read_again(store, plan):
    schedule.sync(store, [plan])
    journal = store.folder / "optuna.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "trial_')
    commit_result(store, plan.trials[0], 0.5)
    schedule.sync(store, [plan])
    for line in journal.read_text().splitlines():
        json.loads(line)
    assert len(optuna_trials(store)) == 10
    assert optuna_trials(store)[0].value == 0.5


def test_a_lost_journal_comes_back_equal(store, plan):
    commit_result(store, plan.trials[0], 0.5)
    schedule.sync(store, [plan])
    before = [(t.params, t.value, t.state, t.user_attrs) for t in optuna_trials(store)]
    (store.folder / "optuna.journal").unlink()
    schedule.sync(store, [plan])
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
    schedule.sync(store, [plan])
    claim = store.claim(trial.key, {})
    write_validations(store, trial, [0.5, 0.75], attempt=2, first=80)  # resumed: repeats step 80
    schedule.sync(store, [plan])
    assert optuna_trials(store)[3].intermediate_values == {40: 0.25, 80: 0.5, 120: 0.75}
    claim.release()


SPACE = {"train.learning_rate": schedule.Range(1e-4, 1e-2, log=True), "adapter.r": (8, 16)}


def open_search(store):
    return schedule.Search(store, "made_up.tiny.gatera", SPACE, seed=7, whole_trials=2)


def propose(search, plan, count):
    """Return `count` trials made of proposals, and their settings by key."""
    trials, tried = [], {}
    for seed in range(count):
        proposal = search.propose()
        trial = dataclasses.replace(plan.trials[1], seed=100 + seed)
        search.accept(proposal, trial.key)
        trials.append(trial)
        tried[trial.key] = proposal.settings
    return trials, tried


def finish(store, trial, accuracy):
    result = commit_result(store, trial, 0.5)
    path = store.trial_folder(trial.key) / "result.json"
    path.unlink()
    assert store.commit(
        dataclasses.replace(result, metrics={**result.metrics, "val/accuracy": accuracy})
    )


def test_a_search_proposes_within_its_space_and_learns_of_results(store, plan):
    search = open_search(store)
    trials, tried = propose(search, plan, 6)
    for settings in tried.values():
        assert 1e-4 <= settings["train.learning_rate"] <= 1e-2
        assert settings["adapter.r"] in (8, 16)
    for place, trial in enumerate(trials[:4]):
        finish(store, trial, (0.5, 0.75, 0.25, 0.75)[place])
    assert search.catch_up(tried) == []
    assert search.best() == trials[1].key
    states = [trial.state for trial in optuna_trials(store, "made_up.tiny.gatera")]
    assert states == [COMPLETE] * 4 + [RUNNING] * 2


def test_a_hopeless_trial_is_pruned_and_a_good_one_is_not(store, plan):
    search = open_search(store)
    trials, tried = propose(search, plan, 4)
    for trial in trials[:2]:
        finish(store, trial, 0.75)
        write_validations(store, trial, [0.5, 0.75])
    claims = [store.claim(trial.key, {}) for trial in trials[2:]]
    for trial, accuracy in zip(trials[2:], (0.25, 0.625), strict=True):
        write_validations(store, trial, [accuracy])
    assert search.catch_up(tried) == [trials[2].key]
    assert store.is_pruned(trials[2].key)
    assert not store.is_pruned(trials[3].key)
    assert search.catch_up(tried) == []  # it is on its way out
    for claim in claims:
        claim.release()
    search.catch_up(tried)
    found = optuna_trials(store, "made_up.tiny.gatera")
    assert [trial.state for trial in found] == [COMPLETE, COMPLETE, PRUNED, RUNNING]
    assert found[2].value == 0.25  # Optuna keeps what was last reported


def test_nothing_is_pruned_before_enough_trials_have_ended(store, plan):
    search = open_search(store)
    trials, tried = propose(search, plan, 2)
    finish(store, trials[0], 0.75)
    write_validations(store, trials[0], [0.75])
    claim = store.claim(trials[1].key, {})
    write_validations(store, trials[1], [0.0])
    assert search.catch_up(tried) == []
    claim.release()


def test_a_lost_search_comes_back_from_the_store(store, plan):
    search = open_search(store)
    trials, tried = propose(search, plan, 4)
    finish(store, trials[0], 0.5)
    write_validations(store, trials[0], [0.25, 0.5])
    store.claim(trials[1].key, {}).release()
    write_validations(store, trials[1], [0.125])
    store.prune(trials[1].key, 40)
    for attempt in (1, 2):
        store.claim(trials[2].key, {}).release()
        store.write_failure(trials[2].key, Failure(attempt, "bug", "it broke", ""))

    def content():
        open_search(store).catch_up(tried)
        return [
            (t.params, t.value, t.state, t.user_attrs, t.intermediate_values)
            for t in optuna_trials(store, "made_up.tiny.gatera")
        ]

    before = content()
    assert [each[2] for each in before] == [COMPLETE, PRUNED, FAIL, RUNNING]
    (store.folder / "optuna.journal").unlink()
    assert content() == before


def test_a_proposal_that_no_trial_was_made_of_is_given_up(store, plan):
    search = open_search(store)
    search.propose()
    open_search(store).catch_up({})
    assert [t.state for t in optuna_trials(store, "made_up.tiny.gatera")] == [FAIL]
