"""From the store to a report's record: the one place that knows both."""

from __future__ import annotations

from gatera.reports.records import RowRecord, StudyRecord, TrialRecord
from gatera.studies.plan import Plan
from gatera.studies.progress import Snapshot, take_snapshot
from gatera.studies.store import Store
from gatera.trial import Trial


def gather(
    store: Store, plan: Plan, *, code_sha256: str, max_attempts: int | None = None
) -> StudyRecord:
    """Return all that the store holds of `plan`; stale results are left out, and said so."""
    snapshot = take_snapshot(store, plan, code_sha256=code_sha256, max_attempts=max_attempts)
    rows = [
        RowRecord(
            variant=variant,
            changes=changes,
            trials=tuple(_trial_record(store, t, snapshot) for t in plan.trials_of(variant)),
        )
        for variant, changes in plan.changes.items()
    ]
    return StudyRecord(
        study=plan.study,
        scale=plan.scale,
        stem=plan.stem,
        title=plan.title,
        reproduces=plan.reproduces,
        reference=plan.reference,
        published=plan.published,
        curve=plan.curve,
        departures=plan.departures,
        study_sha256=plan.study_sha256,
        tasks=plan.tasks,
        rows=tuple(rows),
    )


def _trial_record(store: Store, trial: Trial, snapshot: Snapshot) -> TrialRecord:
    status = snapshot.statuses[trial.key]
    result = store.result(trial.key) if status.state == "done" else None
    reason = status.failure.message if status.failure is not None else None
    return TrialRecord(trial.seed, status.state, result, reason)
