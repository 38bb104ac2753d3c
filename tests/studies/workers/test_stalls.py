import pytest

from gatera.studies.workers.stalls import StallWatch


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def watched(store, plan):
    """A claimed trial, a watch on it with a clock of ours, and what writes a line of progress."""
    key = plan.trials[0].key
    claim = store.claim(key, {"worker": "w"})
    clock = Clock()
    watch = StallWatch(store, 10.0, clock)

    def look(seconds):
        clock.now += seconds
        return watch.stalled([key])

    def progress():
        with (store.attempt_folder(key, 1) / "metrics.jsonl").open("a") as file:
            file.write('{"phase": "train", "step": 1}\n')

    yield key, look, progress
    claim.release()


def test_a_trial_without_progress_stalls_after_the_timeout(watched):
    key, look, _ = watched
    assert [look(2) for _ in range(5)] == [[]] * 5
    assert look(2) == [(key, 1)]


def test_progress_begins_the_count_anew(watched):
    key, look, progress = watched
    for _ in range(4):
        assert [look(2) for _ in range(5)] == [[]] * 5
        progress()
    assert [look(2) for _ in range(5)] == [[]] * 5
    assert look(2) == [(key, 1)]


def test_a_clock_that_jumps_and_a_watcher_that_stood_still_do_no_harm(watched):
    key, look, _ = watched
    look(0)
    assert look(36_000) == []  # counts as a quarter of the time-out
    assert look(-36_000) == []  # backwards: not at all
    assert [look(2), look(2), look(2)] == [[]] * 3
    assert look(36_000) == [(key, 1)]


def test_two_looks_at_once_are_one(watched):
    _, look, _ = watched
    assert [look(0.25) for _ in range(200)].count([]) > 150


def test_a_new_attempt_has_its_own_time(watched, store):
    key, look, _ = watched
    for _ in range(5):
        look(2)
    store.claims.declare_dead(key, 1, "somebody said so")
    second = store.claim(key, {"worker": "v"})
    assert [look(2) for _ in range(5)] == [[]] * 5
    assert look(2) == [(key, 2)]
    second.release()
    assert look(2) == []
