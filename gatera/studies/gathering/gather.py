"""From the store to a report's record: the one place that knows both."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gatera.reports.endpoints import LOG_PROBABILITY
from gatera.reports.records import (
    Curves,
    RowRecord,
    StudyRecord,
    TrialRecord,
    TuningRecord,
)
from gatera.studies.gathering.finished import CURVES, read_clusters, read_finished
from gatera.studies.planning.plan import Plan
from gatera.studies.store.attempts import AttemptRecord
from gatera.studies.store.snapshot import Snapshot, take_snapshot
from gatera.studies.store.staleness import stale_files
from gatera.studies.store.store import Store
from gatera.trial import Trial, TrialResult

_LAST_LINES, _LINE = 3, 160  # of a log, in a footnote; characters of each
# An absolute path, quoted or not, up to the file's own name.
_FOLDERS = re.compile(r"""(?<=")/[^"]*/|(?<=')/[^']*/|(?<![\w.:/])/(?:[^/\s"']+/)*""")


def gather(
    store: Store,
    plan: Plan,
    *,
    max_attempts: int | None = None,
    study_sha256: str | None = None,
) -> StudyRecord:
    """Return all that the store holds of `plan`; stale results are left out, and said so.

    Args:
        store: Where the results are.
        plan: The stored plan.
        max_attempts: Failures after which a trial counts as failed.
        study_sha256: Hash of the study file as it is now; None where it is that of the plan.
    """
    snapshot = take_snapshot(store, plan, max_attempts=max_attempts)
    of_options = plan.endpoint == LOG_PROBABILITY
    rows = [
        RowRecord(
            variant=variant,
            changes=changes,
            trials=tuple(
                _trial_record(store, trial, snapshot, of_options=of_options)
                for trial in plan.trials_of(variant)
            ),
            tuning=_tuning_record(store, plan, variant),
            confounds=tuple(plan.confounds.get(variant, ())),
        )
        for variant, changes in plan.changes.items()
    ]
    notes = list(plan.notes)
    if study_sha256 not in (None, plan.study_sha256):
        notes.append(
            "the study file has changed since `run` planned these trials; this is the study as it "
            "was then, and `run` brings it up to date"
        )
    notes += _tuning_notes(store, plan)
    return StudyRecord(
        study=plan.study,
        scale=plan.scale,
        plan_id=plan.id,
        title=plan.title,
        reproduces=plan.reproduces,
        reference=plan.reference,
        published=plan.published,
        curve=plan.curve,
        endpoint=plan.endpoint,
        contrasts=plan.contrasts,
        departures=plan.departures,
        study_sha256=plan.study_sha256,
        tasks=plan.tasks,
        rows=tuple(rows),
        clusters=_clusters(store, snapshot),
        backbone=plan.trials[0].config["backbone"]["name"],
        notes=tuple(notes),
    )


def _clusters(store: Store, snapshot: Snapshot) -> Mapping[str, Mapping[int, str]]:
    """Return task -> item -> what it asks about: of any trial that is done, alike in all."""
    done = (key for key, status in snapshot.statuses.items() if status.state == "done")
    result = next((r for key in done if (r := store.result(key)) is not None), None)
    return {} if result is None else read_clusters(store, result)


def _tuning_record(store: Store, plan: Plan, variant: str) -> TuningRecord | None:
    """Return how a row's settings were chosen; None where they were not, or are not yet."""
    row = plan.tuning.rows.get(variant) if plan.tuning is not None else None
    if plan.tuning is None or row is None or row.choice is None:
        return None
    found = _tuning_results(store, plan, variant)
    of_the_seeds = plan.trials_of(variant)[0].config["train"]["max_steps"]
    return TuningRecord(
        trials=plan.tuning.trials,
        seeds=plan.tuning.seeds,
        chosen=row.choice.settings,
        edges=row.edges,
        steps=plan.tuning.steps or of_the_seeds,
        pruned=row.choice.pruned,
        diverged=row.choice.diverged,
        searched={name: (each.low, each.high) for name, each in row.space.items()},
        results=tuple(result for trial, result in found if not stale_files(trial, result)),
    )


def _tuning_results(store: Store, plan: Plan, variant: str) -> list[tuple[Trial, TrialResult]]:
    """Return the tuning trials of a row that have a result, with it."""
    if (tuning := store.tuning_plan(plan)) is None:
        return []
    found = ((trial, store.result(trial.key)) for trial in tuning.trials_of(variant))
    return [(trial, result) for trial, result in found if result is not None]


def _tuning_notes(store: Store, plan: Plan) -> list[str]:
    """Return what the choice of settings must not leave unsaid."""
    if plan.tuning is None:
        return []
    if not plan.tuning.is_settled:
        return ["the rows are still being tuned: no seed runs before each has its settings"]
    found = [each for variant in plan.tuning.rows for each in _tuning_results(store, plan, variant)]
    if stale := sum(bool(stale_files(trial, result)) for trial, result in found):
        return [
            f"{stale} of the tuning trials were run by other code than today's: settings were "
            "chosen by them; `run --retry stale` tunes again"
        ]
    return []


def _reason(store: Store, trial: Trial, failure: AttemptRecord | None) -> str | None:
    """Return why a trial has no result, without a path of this machine."""
    if failure is not None:
        return without_folders(failure.message)
    if store.damage(trial.key):
        return "its result or its predictions changed since they were written; `run` runs it again"
    return None


def _last_lines(failure: AttemptRecord) -> tuple[str, ...]:
    lines = (" ".join(line.split()) for line in failure.log_tail.splitlines())
    return tuple(without_folders(line)[:_LINE] for line in lines if line)[-_LAST_LINES:]


def without_folders(text: str) -> str:
    """Return a text with the names of files alone, without where they lie on this machine."""
    return _FOLDERS.sub("", text)


def _trial_record(
    store: Store, trial: Trial, snapshot: Snapshot, *, of_options: bool
) -> TrialRecord:
    status = snapshot.statuses[trial.key]
    if status.state != "done":
        failure = status.failure
        return TrialRecord(
            trial.seed,
            status.state,
            None,
            reason=_reason(store, trial, failure),
            failure_kind=None if failure is None else failure.ended,
            last_lines=() if failure is None else _last_lines(failure),
        )
    entry, contents = read_finished(store, trial)
    return TrialRecord(
        trial.seed,
        status.state,
        contents.result,
        items=contents.log_probabilities if of_options else contents.scores,
        seconds=entry.seconds + entry.trained_seconds,
        curves=Curves(*(contents.curve(name) for name in CURVES)),
    )
