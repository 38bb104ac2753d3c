"""Following thousands of trials: what has ended, or has not begun, is not looked at again."""

import dataclasses

import pytest
from made_up import commit_result

from gatera.studies.store import snapshot
from gatera.studies.store.snapshot import Follower, take_snapshot


@pytest.fixture
def looked_at(monkeypatch):
    """The keys of the trials whose status was read since this was last emptied."""
    found = []
    original = snapshot.status_of

    def noting(store, trial, **options):
        found.append(trial.key)
        return original(store, trial, **options)

    monkeypatch.setattr(snapshot, "status_of", noting)
    return found


def test_only_trials_that_may_go_on_are_looked_at(store, plan, looked_at):
    first, second, third = plan.trials[:3]
    commit_result(store, first, 0.5)
    claim = store.claim(second.key, {"worker": "us"})
    follower = Follower(store, plan)
    assert follower.look().counts == take_snapshot(store, plan).counts
    looked_at.clear()
    follower.look()
    assert looked_at == [second.key]
    commit_result(store, third, 0.25, seconds=30.0)
    claim.release()
    looked_at.clear()
    followed = follower.look()
    assert sorted(looked_at) == sorted([second.key, third.key])
    whole = take_snapshot(store, plan)
    assert followed.statuses == whole.statuses
    assert followed.trial_seconds == whole.trial_seconds == {first.key: 10.0, third.key: 30.0}
    assert followed.training_share == pytest.approx(whole.training_share)
    assert followed.eta_seconds == pytest.approx(whole.eta_seconds)


def test_what_was_taken_away_is_seen_by_the_next_follower(store, plan):
    commit_result(store, plan.trials[0], 0.5)
    follower = Follower(store, plan)
    follower.look()
    store.retire_result(plan.trials[0].key, "older")
    assert follower.look().counts["done"] == 1
    assert Follower(store, plan).look().counts["done"] == 0


def test_rows_that_share_their_trials_are_counted_once(store, plan):
    trial = plan.trials_of("hira")[0]
    twice = dataclasses.replace(trial, variant="another")
    commit_result(store, trial, 0.5)
    taken = take_snapshot(store, dataclasses.replace(plan, trials=(trial, twice)))
    assert taken.counts["planned"] == taken.counts["done"] == 1
