import heapq
import json
import os
import random

import pytest
from made_up import commit_result, note_end

from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.views.progress import (
    duration,
    failure_lines,
    trial_rows,
    whole_line,
    worker_lines,
)


def snapshot_of(store, plan):
    return take_snapshot(store, plan)


def test_counts_name_every_state(store, plan):
    commit_result(store, plan.trials_of("hira")[0], 0.5)
    counts = snapshot_of(store, plan).counts
    assert counts == {
        "planned": 10,
        "done": 1,
        "running": 0,
        "waiting": 9,
        "failed": 0,
        "pruned": 0,
        "stale": 0,
    }


def test_the_eta_rests_on_finished_trials(store, plan):
    assert snapshot_of(store, plan).eta_seconds is None
    for trial in plan.trials[:9]:
        commit_result(store, trial, 0.5)
    # One trial is left, nobody runs it, and finished ones took 8 + 2 seconds.
    assert snapshot_of(store, plan).eta_seconds == 10.0
    commit_result(store, plan.trials[9], 0.5)
    done = snapshot_of(store, plan)
    assert done.eta_seconds == 0.0
    assert whole_line(done) == "10 of 10 trials done"


def test_a_running_trial_is_a_line_with_its_step(store, plan):
    trial = plan.trials_of("gatera")[0]
    owner = {"worker": "w", "host": "h", "pid": 7, "claimed_at": 0.0}
    claim = store.claim(trial.key, owner)
    folder = store.attempt_folder(trial.key, 1)
    assert worker_lines(snapshot_of(store, plan)) == ["h:7  gatera seed 0: starting"]
    line = {"phase": "train", "step": 50, "max_steps": 200, "train/loss": 0.25, "seconds": 30.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    snapshot = snapshot_of(store, plan)
    assert worker_lines(snapshot) == ["h:7  gatera seed 0: train step 50 of 200, loss 0.250"]
    # A quarter took 30 s: 120 s in all for each of the 10 trials, 30 of them gone.
    assert snapshot.eta_seconds == 10 * 120 - 30
    row = next(row for row in trial_rows(snapshot) if row["key"] == trial.key)
    assert (row["state"], row["step"], row["max_steps"], row["host"]) == ("running", 50, 200, "h")
    claim.release()


def line_at(share, seconds):
    """Return what a trial's newest line says when a share of its time is over."""
    line = {"step": min(100, int(125 * share)), "max_steps": 100}
    if share <= 0.8:
        return {"phase": "train", "seconds": share * seconds, **line}
    done = {"answered": int(500 * (share - 0.8)), "items": 100}
    return {"phase": "test", "seconds": (share - 0.8) * seconds, **line, **done}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_eta_is_within_a_fifth_from_half_way_on(store, plan, workers):
    """Trials of a gated variant take three times as long as the rest, and all scatter by 10 %."""
    chance = random.Random(workers)
    lasts = {
        trial.key: (60 if trial.variant == "gatera" else 20) * chance.uniform(0.9, 1.1)
        for trial in plan.trials
    }
    begins, free = {}, [0.0] * workers
    for trial in plan.trials:
        begins[trial.key] = heapq.heappop(free)
        heapq.heappush(free, begins[trial.key] + lasts[trial.key])
    whole, claims, errors = max(free), {}, []
    for moment in (whole * share for share in (0.5, 0.6, 0.7, 0.8, 0.9)):
        for trial in plan.trials:
            at, key = moment - begins[trial.key], trial.key
            if at >= lasts[key] and not store.has_result(key):
                if key in claims:
                    store.attempt_folder(key, 1).joinpath("metrics.jsonl").unlink()
                    claims.pop(key).release()
                    (store.trial_folder(key) / "claim.1").unlink()
                commit_result(store, trial, 0.5, seconds=lasts[key])
            elif 0 <= at < lasts[key]:
                if key not in claims:
                    claims[key] = store.claim(key, {"worker": "w"})
                path = store.attempt_folder(key, 1) / "metrics.jsonl"
                path.write_text(json.dumps(line_at(at / lasts[key], lasts[key])) + "\n")
        left = whole - moment
        errors.append(abs(snapshot_of(store, plan).eta_seconds - left) / left)
    assert max(errors) < 0.2, errors
    for claim in claims.values():
        claim.release()


def test_a_failure_shows_its_reason_and_its_log(store, plan):
    trial = plan.trials_of("gatera")[0]
    for attempt in (1, 2):
        store.claim(trial.key, {"pid": os.getpid()}).release()
        note_end(store, trial.key, attempt, "bug", "gatera, seed 0: it broke", "a\nb")
    lines = failure_lines(snapshot_of(store, plan))
    assert lines == ["failed (bug, attempt 2): gatera, seed 0: it broke", "    a", "    b"]


def test_durations_are_read_by_people():
    assert [duration(s) for s in (7.4, 125, 7260)] == ["7 s", "2 min 05 s", "2 h 01 min"]
