"""What `plan` and `status` say of a tuning phase: budget, what was done of it, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatera.studies.planning.plan import Plan
from gatera.studies.store.snapshot import Snapshot, take_snapshot
from gatera.studies.store.store import Store
from gatera.studies.views.progress import duration
from gatera.trial import Json


def as_stored(store: Store | None, plan: Plan) -> Plan:
    """Return a plan as a run of the same study stored it: with its rows' chosen settings."""
    if plan.tuning is None or store is None or plan.id not in store.plan_ids():
        return plan
    stored = store.plan(plan.id)
    return stored if stored.study_sha256 == plan.study_sha256 else plan


def tuning_snapshot(
    store: Store | None, plan: Plan, *, max_attempts: int | None = None
) -> Snapshot | None:
    """Return where the tuning trials of a plan stand; None where there are none yet."""
    if store is None or (tuning := store.tuning_plan(plan)) is None:
        return None
    return take_snapshot(store, tuning, max_attempts=max_attempts)


def describe_tuning(plan: Plan, snapshot: Snapshot | None) -> dict[str, Json] | None:
    """Return what JSON says of a plan's tuning phase; None where it has none.

    `seconds` is what the missing trials take one after another; None where none has finished.
    """
    tuning = plan.tuning
    if tuning is None:
        return None
    counts = snapshot.counts if snapshot is not None else {"planned": tuning.total}
    ended = sum(counts.get(state, 0) for state in ("done", "stale", "pruned", "failed"))
    seconds = list(snapshot.trial_seconds.values()) if snapshot is not None else []
    left = tuning.total - ended
    return {
        "trials_a_row": tuning.trials,
        "seeds_a_trial": tuning.seeds,
        "steps": tuning.steps,
        "pruner": tuning.pruner,
        "seed": tuning.seed,
        "counts": counts,
        "trials_left": left,
        "seconds": sum(seconds) / len(seconds) * left if seconds else None,
        "rows": {
            variant: {
                "space": {name: [each.low, each.high] for name, each in row.space.items()},
                "chosen": dict(row.choice.settings) if row.choice is not None else None,
                "edges": list(row.edges),
            }
            for variant, row in tuning.rows.items()
        },
    }


def tuning_lines(described: Mapping[str, Any]) -> list[str]:
    """Return what `plan` prints of a tuning phase."""
    rows = described["rows"]
    steps = (
        "as many steps as a seed" if described["steps"] is None else f"{described['steps']} steps"
    )
    cost = "cost not known before one has finished"
    if described["seconds"] is not None:
        cost = f"cost, estimated: {duration(described['seconds'])}"
    seeds = described["seeds_a_trial"]
    total = described["trials_a_row"] * seeds * len(rows)
    each = "" if seeds == 1 else f", each with {seeds} seeds"
    lines = [
        f"tuning, before any seed runs: {described['trials_a_row']} trials a row of {steps}{each}, "
        f"{total} in all, {described['trials_left']} left; {cost}"
    ]
    width = max(len(variant) for variant in rows)
    return lines + [f"  {variant:<{width}}  {_row_line(row)}" for variant, row in rows.items()]


def _row_line(row: Mapping[str, Any]) -> str:
    space = ", ".join(
        f"{name} in {low:g} to {high:g}" for name, (low, high) in row["space"].items()
    )
    if row["chosen"] is None:
        return space
    chosen = ", ".join(
        f"{name} = {value:.3g}" + (" (an edge)" if name in row["edges"] else "")
        for name, value in row["chosen"].items()
    )
    return f"{space}; chosen {chosen}"
