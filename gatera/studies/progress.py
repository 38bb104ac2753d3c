"""How far a study is: counts, ETA and the lines that `run` and `status` show. Reads files only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatera.studies.plan import Plan
from gatera.studies.store import Store, TrialStatus
from gatera.trial import Json, Trial

STATES = ("done", "running", "waiting", "failed", "pruned", "stale")


@dataclass(frozen=True)
class Snapshot:
    """Where each trial of a plan stands at one moment."""

    plan: Plan
    statuses: Mapping[str, TrialStatus]  # by key
    trial_seconds: Mapping[str, float]  # by key of each finished trial: training and scoring
    now: float  # seconds since the epoch

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of trials in each state, and of all planned ones."""
        found = Counter(status.state for status in self.statuses.values())
        return {"planned": len(self.statuses), **{state: found[state] for state in STATES}}

    @property
    def unfinished(self) -> list[Trial]:
        """Return the trials that still have to run."""
        return [t for t in self.plan.trials if self.statuses[t.key].state in ("waiting", "running")]

    @property
    def failed(self) -> list[Trial]:
        """Return the trials that failed as often as they may."""
        return [t for t in self.plan.trials if self.statuses[t.key].state == "failed"]

    @property
    def eta_seconds(self) -> float | None:
        """Return the estimated time until all is done; None while nothing says how long it takes.

        Trials are taken to last as long as the finished ones of the same kind, and as many to run
        at a time as run now.
        """
        left = self.unfinished
        if not left:
            return 0.0
        typical = self._typical_seconds()
        if typical is None:
            return None
        running = max(1, sum(self.statuses[trial.key].state == "running" for trial in left))
        remaining = [max(0.0, typical - self._elapsed(trial)) for trial in left]
        return max(sum(remaining) / running, max(remaining))

    def _typical_seconds(self) -> float | None:
        trained = [
            self.trial_seconds[trial.key]
            for trial in self.plan.trials
            if trial.key in self.trial_seconds and trial.config["adapter"] is not None
        ]
        if trained:
            return sum(trained) / len(trained)
        guesses = [g for t in self.unfinished if (g := self._extrapolated(t)) is not None]
        return sum(guesses) / len(guesses) if guesses else None

    def _elapsed(self, trial: Trial) -> float:
        owner = self.statuses[trial.key].owner
        return self.now - float(owner["claimed_at"]) if owner else 0.0

    def _extrapolated(self, trial: Trial) -> float | None:
        """Return how long a running trial will take if it goes on at its pace."""
        progress = self.statuses[trial.key].progress or {}
        step, steps = progress.get("step"), progress.get("max_steps")
        if not step or not steps or progress.get("phase") != "train":
            return None
        return self._elapsed(trial) * float(steps) / float(step)


def take_snapshot(
    store: Store, plan: Plan, *, code_sha256: str, max_attempts: int | None = None
) -> Snapshot:
    """Read where each trial of `plan` stands."""
    statuses, seconds = {}, {}
    for trial in plan.trials:
        status = store.status(trial, code_sha256=code_sha256, max_attempts=max_attempts)
        statuses[trial.key] = status
        if status.state in ("done", "stale") and (result := store.result(trial.key)) is not None:
            seconds[trial.key] = result.seconds
    return Snapshot(plan, statuses, seconds, time.time())


def whole_line(snapshot: Snapshot) -> str:
    """Return the one line that says how far the whole is."""
    counts = snapshot.counts
    parts = [f"{counts['done']} of {counts['planned']} trials done"]
    parts += [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    if snapshot.unfinished:
        eta = snapshot.eta_seconds
        parts.append(f"ETA {duration(eta)}" if eta is not None else "ETA not known yet")
    return ", ".join(parts)


def worker_lines(snapshot: Snapshot) -> list[str]:
    """Return one line for each running trial: who runs it, and at which step it is."""
    running = [t for t in snapshot.plan.trials if snapshot.statuses[t.key].state == "running"]
    return [_running_line(trial, snapshot.statuses[trial.key]) for trial in running]


def _running_line(trial: Trial, status: TrialStatus) -> str:
    owner, progress = status.owner or {}, status.progress or {}
    where = f"{owner.get('host', '?')}:{owner.get('pid', '?')}"
    what = f"{trial.variant} seed {trial.seed}"
    if status.attempt > 1:
        what += f" (attempt {status.attempt})"
    if not progress:
        return f"{where}  {what}: starting"
    return f"{where}  {what}: {_phase(progress)}"


def _phase(progress: Mapping[str, Json]) -> str:
    """Return what a line of metrics.jsonl says of the trial's progress."""
    if progress["phase"] == "test":
        return f"test item {progress.get('answered')} of {progress.get('items')}"
    loss = progress.get("train/loss")
    step = f"{progress['phase']} step {progress['step']} of {progress['max_steps']}"
    return step + (f", loss {loss:.3f}" if loss is not None else "")


def trial_rows(snapshot: Snapshot) -> list[dict[str, Json]]:
    """Return what `status --json` says of each trial."""
    rows = []
    for trial in snapshot.plan.trials:
        status = snapshot.statuses[trial.key]
        progress, owner = status.progress or {}, status.owner or {}
        rows.append(
            {
                "key": trial.key,
                "variant": trial.variant,
                "seed": trial.seed,
                "state": status.state,
                "attempt": status.attempt,
                "step": progress.get("step"),
                "max_steps": progress.get("max_steps"),
                "host": owner.get("host"),
                "reason": status.failure.message if status.failure else None,
            }
        )
    return rows


def failure_lines(snapshot: Snapshot) -> Sequence[str]:
    """Return why each failed trial failed, with the last lines of its log."""
    lines = []
    for trial in snapshot.failed:
        failure = snapshot.statuses[trial.key].failure
        if failure is not None:
            lines.append(f"failed ({failure.kind}, attempt {failure.attempt}): {failure.message}")
            lines += [f"    {line}" for line in failure.log_tail.splitlines()[-5:]]
    return lines


def duration(seconds: float) -> str:
    """Return a time such as 45 s, 12 min 05 s or 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
