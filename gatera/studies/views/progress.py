"""The lines that `run` and `status` show of how far a study is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gatera.studies.store.snapshot import STATES, Snapshot, TrialStatus
from gatera.trial import Json, Trial


def whole_line(snapshot: Snapshot) -> str:
    """Return the one line that says how far the whole is."""
    counts = snapshot.counts
    what = "tuning trials" if snapshot.plan.is_tuning else "trials"
    parts = [f"{counts['done']} of {counts['planned']} {what} done"]
    parts += [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    if snapshot.unfinished and not snapshot.plan.is_tuning:  # more of which are still to come
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
    what = f"{trial.variant} {'tuning' if trial.is_tuning else f'seed {trial.seed}'}"
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
                "reason": status.reason,
            }
        )
    return rows


def failure_lines(snapshot: Snapshot) -> Sequence[str]:
    """Return why each failed trial failed, with the last lines of its log."""
    lines = []
    for trial in snapshot.failed:
        failure = snapshot.statuses[trial.key].failure
        if failure is not None:
            lines.append(f"failed ({failure.ended}, attempt {failure.attempt}): {failure.message}")
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
