"""Stores that were filled apart, brought together, are the store that was filled at once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from made_up import commit_result, make_trained, note_end

from gatera import cli
from gatera.errors import InputError
from gatera.reports.write import write_report
from gatera.studies.gathering.answers import read_answers
from gatera.studies.gathering.gather import gather
from gatera.studies.running import merging
from gatera.studies.running.supervisor import supervising
from gatera.studies.store.store import Store

OWNER = {"worker": "test", "host": "here", "pid": 1, "claimed_at": 0.0}


def score_of(trial):
    return 0.3 + 0.1 * trial.seed + 0.02 * len(trial.variant)


def filled(folder, plan, chosen=lambda trial: True, **options):
    store = Store(folder, create=True)
    store.write_plan(plan)
    for trial in plan.trials:
        if chosen(trial):
            commit_result(store, trial, score_of(trial), **options)
    return store


def merge(store, *sources):
    return list(merging.merge(store, [source.folder for source in sources]))


@pytest.fixture
def halves(tmp_path, plan):
    """Two stores that share the trials of seed 1."""
    return (
        filled(tmp_path / "a", plan, lambda trial: trial.seed < 2),
        filled(tmp_path / "b", plan, lambda trial: trial.seed > 0),
    )


def forms(store, plan, folder):
    record = gather(Store(store.folder), plan)
    written = write_report(record, folder, read_answers(store, record), measured=False)
    return {path.name: path.read_bytes() for path in written.files}


def test_halves_together_are_the_undivided_store(halves, store, plan, tmp_path):
    first, second = merge(store, *halves)

    assert (first.brought, first.known, first.unfinished) == (7, 0, 0)
    assert (second.brought, second.known, second.unfinished) == (3, 3, 0)
    assert first.unequal == second.unequal == []
    whole = filled(tmp_path / "whole", plan)
    for trial in plan.trials:
        mine, undivided = store.result_path(trial.key), whole.result_path(trial.key)
        assert mine.read_bytes() == undivided.read_bytes()
        assert store.seconds(trial.key) == whole.seconds(trial.key)
        assert store.weights.of(trial) == whole.weights.of(trial)
        scored = whole.weights.scored_with(trial.training_key)
        assert store.weights.scored_with(trial.training_key) == scored != []
    merged = forms(store, plan, tmp_path / "r")
    assert merged == forms(whole, plan, tmp_path / "s")


def test_merged_again_nothing_changes(halves, store):
    merge(store, *halves)
    before = {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()}
    again = merge(store, *halves)
    assert [(told.brought, told.known) for told in again] == [(0, 7), (0, 6)]
    after = {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()}
    changed = {p.name for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert changed <= {"supervisor.lock"}


def test_unequal_results_are_named_and_the_stores_own_stays(store, plan, tmp_path, capsys):
    trial = plan.trials_of("hira")[1]
    store.write_plan(plan)
    commit_result(store, trial, 0.5)
    other = filled(tmp_path / "other", plan, lambda each: each.key == trial.key)
    before = store.result_path(trial.key).read_bytes()

    assert cli.main(["merge", str(store.folder), str(other.folder)]) == 3

    said = capsys.readouterr().out
    assert "0 trials brought, 0 there already, 0 unfinished and left, 1 with another result" in said
    assert f"{trial.key} (made_up.tiny, hira, seed 1): test/accuracy" in said
    assert "0.5 here" in said
    assert store.result_path(trial.key).read_bytes() == before


def test_results_that_were_made_otherwise_are_named_by_what_made_them(store, plan, tmp_path):
    trial = plan.trials_of("gatera")[0]
    filled(store.folder, plan, lambda each: each.key == trial.key)
    other = filled(
        tmp_path / "other", plan, lambda each: each.key == trial.key, processor="another processor"
    )
    (told,) = merge(store, other)
    assert told.unequal == [
        f"{trial.key} (made_up.tiny, gatera, seed 0): made otherwise (processor)"
    ]


def test_a_trial_that_failed_here_gets_the_result_as_its_next_attempt(store, plan, tmp_path):
    trial = plan.trials_of("gatera")[2]
    claim = store.claim(trial.key, OWNER)
    note_end(store, trial.key, claim.attempt, "bug", message="broken", seconds=5.0)
    claim.release()
    other = filled(tmp_path / "other", plan, lambda each: each.key == trial.key)

    (told,) = merge(store, other)

    assert told.brought == 1
    result = store.result(trial.key)
    assert result.attempt == 2
    assert dataclasses.replace(result, attempt=1) == other.result(trial.key)
    assert store.weights.of(trial).attempt == 2
    adapter = store.weights.adapter_folder(store.weights.of(trial))
    assert (adapter / "adapter_model.safetensors").read_text() == trial.training_key
    assert store.record(trial.key, 1).ended == "bug"
    assert store.record(trial.key, 2).ended == "finished"
    assert store.seconds(trial.key) == 5.0 + other.seconds(trial.key)


def test_a_trial_that_runs_here_is_left_alone(store, plan, tmp_path):
    trial = plan.trials_of("gatera")[0]
    claim = store.claim(trial.key, OWNER)
    other = filled(tmp_path / "other", plan, lambda each: each.key == trial.key)
    (told,) = merge(store, other)
    assert (told.brought, told.unfinished) == (0, 1)
    assert store.claims.attempts(trial.key) == [claim.attempt]
    claim.release()


def test_what_is_not_finished_there_stays_there(store, plan, tmp_path):
    other = Store(tmp_path / "other", create=True)
    trial = plan.trials_of("gatera")[0]
    other.claim(trial.key, OWNER).release()
    (told,) = merge(store, other)
    assert (told.brought, told.unfinished) == (0, 1)
    assert not store.trial_folder(trial.key).exists()


def test_a_trial_that_was_pruned_there_is_pruned_here(store, plan, tmp_path):
    other = Store(tmp_path / "other", create=True)
    trial = plan.trials_of("gatera")[0]
    claim = other.claim(trial.key, OWNER)
    note_end(other, trial.key, claim.attempt, "pruned", seconds=3.0)
    other.prune(trial.key, 40)
    claim.release()
    (told,) = merge(store, other)
    assert (told.brought, told.unfinished) == (1, 0)
    assert store.is_pruned(trial.key)
    assert store.seconds(trial.key) == 3.0


def test_weights_of_a_trial_that_is_not_scored_yet_are_brought(store, plan, tmp_path):
    other = Store(tmp_path / "other", create=True)
    trial = plan.trials_of("gatera")[0]
    claim = other.claim(trial.key, OWNER)
    folder = other.attempt_folder(trial.key, claim.attempt)
    trained = other.weights.keep(make_trained(trial, claim.attempt, folder), trial)
    claim.release()
    (told,) = merge(store, other)
    assert (told.brought, told.unfinished) == (0, 1)
    assert store.weights.of(trial) == trained
    assert not store.has_result(trial.key)


def test_results_without_their_adapters_come_without_weights(store, plan, tmp_path):
    other = filled(tmp_path / "other", plan)
    for folder in other.folder.glob("trials/*/attempts/*/adapter"):
        shutil.rmtree(folder)
    (told,) = merge(store, Store(other.folder))
    assert told.brought == len(plan.trials)
    assert all(store.has_result(trial.key) for trial in plan.trials)
    assert all(store.weights.recorded(trial.training_key) is None for trial in plan.trials)


def test_weights_that_the_store_lost_come_back(store, plan, tmp_path):
    trial = plan.trials_of("gatera")[0]
    other = filled(tmp_path / "other", plan, lambda each: each.key == trial.key)
    merge(store, other)
    shutil.rmtree(store.weights.adapter_folder(store.weights.of(trial)))
    (told,) = merge(Store(store.folder), other)
    assert told.known == 1
    assert Store(store.folder).weights.of(trial) is not None
    assert Store(store.folder).result(trial.key) == other.result(trial.key)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_killed_while_it_copies_it_goes_on(halves, store, plan, tmp_path, monkeypatch, after):
    real, calls = shutil.copytree, []

    def dies(*arguments, **options):
        if len(calls) == after:
            target = Path(arguments[1])
            target.mkdir(parents=True, exist_ok=True)
            (target / "half").write_text("a")
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(shutil, "copytree", dies)
    with pytest.raises(KeyboardInterrupt):
        merge(store, *halves)
    monkeypatch.setattr(shutil, "copytree", real)
    (store.folder / ".merge-left" / "key").mkdir(parents=True)  # as a kill leaves it
    merge(store, *halves)
    whole = filled(tmp_path / "whole", plan)
    assert all(store.result(t.key) == whole.result(t.key) for t in plan.trials)
    assert not list(store.folder.glob(".merge-*"))


def test_a_store_is_not_merged_into_itself_or_while_a_run_holds_it(halves, store):
    with pytest.raises(InputError, match="is the store that others are merged into"):
        merge(store, store)
    with supervising(store), pytest.raises(InputError, match="is held by"):
        merge(store, halves[0])


def test_a_source_that_is_no_store_is_refused_before_anything_is_made(tmp_path, capsys):
    assert cli.main(["merge", str(tmp_path / "into"), str(tmp_path / "nothing")]) == 2
    assert "no store at" in capsys.readouterr().err
    assert not (tmp_path / "into").exists()


def test_of_two_plans_of_one_id_the_stores_own_stays(store, plan, tmp_path):
    store.write_plan(plan)
    other = Store(tmp_path / "other", create=True)
    other.write_plan(dataclasses.replace(plan, title="Another title"))
    (told,) = merge(store, other)
    assert told.other_plans == ["made_up.tiny"]
    assert store.plan("made_up.tiny").title == plan.title
