"""Studies from Python: what the command line does, as functions; its options are their keywords.

    import gatera.studies as gs

    report = gs.run("ablation_table5", seeds=5)
    report.table, report.trials, report.predictions, report.gates    # DataFrames
    report                                                           # in a notebook: the findings

Scores and shares are fractions, as in CSV and JSON. Everything heavy is imported when it is needed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatera.errors import InputError
from gatera.settings import KEEPS
from gatera.studies.asking import STORE, Asked
from gatera.studies.gate_reading import Gates, gates
from gatera.studies.reported import Report
from gatera.studies.study import Study
from gatera.trial import Json

if TYPE_CHECKING:
    import pandas as pd

    from gatera.reports.judging.paired import PairedDifference
    from gatera.studies.planning.plan import Plan
    from gatera.studies.running.rehearsal import Rehearsal
    from gatera.studies.running.supervisor import Outcome
    from gatera.studies.store.store import Store

__all__ = ["Gates", "Planned", "Report", "gates", "load", "plan", "rehearse", "run"]

REPORTS = "reports"  # where reports go, unless another folder is named
_INTERRUPTED = "the run was interrupted; everything finished is kept, and the same call goes on"


@dataclass(frozen=True)
class Planned:
    """What a plan says: its trials, its rows, and what they would take."""

    answer: Mapping[str, Json]  # as `plan --json` prints it
    text: str  # as `plan` prints it
    missing: tuple[str, ...]  # what could not be read: no trial of such a plan can run

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """A line a trial: where it stands, and what is left to do."""
        import pandas as pd

        return pd.DataFrame(self.answer["trials"])

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """A line a row: its parameters, and what a trial of it would take on a GPU."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "variant": name,
                    "trainable_parameters": said["trainable_parameters"],
                    "trainable_percent": said["trainable_percent"],
                    "gpu_hours": said["gpu"] and said["gpu"]["hours"],
                    "gpu_memory_gib": said["gpu"] and said["gpu"]["memory_gib"],
                }
                for name, said in self.answer["variants"].items()
            ]
        )

    def __repr__(self) -> str:
        """Return what `plan` prints."""
        return "\n".join([self.text, *self.missing])


def plan(study: str | Path | Study, *, store: str | Path = STORE, **asked: Any) -> Planned:
    """Return a study's trials, parameters and cost; runs nothing.

    Args:
        study: As for `run`.
        store: The store's folder, where there is one.
        asked: As for `run`.

    Raises:
        InputError: what is asked cannot be understood.
    """
    return planned(Asked.of(study, **asked), Path(store))


def planned(asking: Asked, folder: Path) -> Planned:
    """Return what the plan of what is asked says, beside what a store has of it."""
    from gatera.studies.planning.gpu_cost import described, gpu_cost
    from gatera.studies.planning.parameters import describe_variants
    from gatera.studies.store.snapshot import take_snapshot
    from gatera.studies.views.budget import as_stored, describe_tuning, tuning_snapshot
    from gatera.studies.views.forecast import estimate, expected_detectable_difference, plan_text
    from gatera.studies.views.outlook import trial_outlook

    store = _existing_store(folder)
    plan = as_stored(store, asking.plan(strict=False))
    counted = describe_variants(plan)
    on_gpu = gpu_cost(plan, {name: of_row.pop("computation") for name, of_row in counted.items()})
    snapshot = take_snapshot(store, plan) if store is not None else None
    answer = {
        "study": plan.study,
        "scale": plan.scale,
        "trials": trial_outlook(store, plan, snapshot),
        "variants": {
            name: {
                "changes": changes,
                "differs": {field: list(pair) for field, pair in plan.differing(name).items()},
                "undeclared": plan.undeclared(name),
                **counted[name],
                "gpu": None if on_gpu is None else on_gpu.of_rows[name].to_json(),
            }
            for name, changes in plan.changes.items()
        },
        "tuning": describe_tuning(plan, tuning_snapshot(store, plan)),
        "estimate": {**estimate(plan, snapshot), "gpu": described(on_gpu)},
        "detectable_difference": expected_detectable_difference(
            plan, _measured_spread(store, plan)
        ),
        "notes": list(plan.notes),
        "missing": list(plan.missing),
    }
    return Planned(answer, plan_text(plan, answer), plan.missing)


def _existing_store(folder: Path) -> Store | None:
    from gatera.studies.store.store import Store

    there = (folder / "format.json").exists() or (folder.exists() and not folder.is_dir())
    return Store(folder, verifies=False) if there else None


def _measured_spread(store: Store | None, plan: Plan) -> PairedDifference | None:
    if store is None:
        return None
    from gatera.reports.tables import measured_spread
    from gatera.studies.gathering.gather import gather

    return measured_spread(gather(store, plan))


def run(
    study: str | Path | Study,
    *,
    store: str | Path = STORE,
    report_dir: str | Path = REPORTS,
    workers: int | None = None,
    workers_per_gpu: int = 1,
    launcher: str = "local",
    slurm: str = "",
    retry: str | None = None,
    max_attempts: int | None = None,
    claim_timeout: float = 3600.0,
    tracking_uri: str | None = None,
    measured: bool = True,
    allow_mixed: bool = False,
    keep: str = "all",
    **asked: Any,
) -> Report:
    """Run what is missing of a study, write its report, and return it.

    It says on stderr what it will do, how long that takes and where to look, then how far it is,
    and at its end the first findings and the files. Interrupted, it keeps what is done; the same
    call goes on.

    Args:
        study: A study's name, the path of a study file, or a `Study`.
        store: The store's folder; made where it does not exist.
        report_dir: Where the report goes.
        workers: How many; None: one a visible GPU, else one a core.
        workers_per_gpu: Workers that share a GPU.
        launcher: What starts workers: local or slurm.
        slurm: Options of sbatch, "partition=gpu,time=4:00:00".
        retry: "failed" or "stale": trials that run again.
        max_attempts: Failures after which a trial is left. None: each kind's own limit.
        claim_timeout: Seconds without progress after which a trial is taken over.
        tracking_uri: Of MLflow. None: SQLite in the store; "none": without MLflow.
        measured: Whether reports say what a clock or a host says.
        allow_mixed: Whether results that were made differently may stand together.
        keep: Adapters that stay in the store once they are scored: "all", "best" (of each row, on
            validation) or "none"; results stay.
        asked: What `Asked.of` takes: name, scale, seeds, tasks, variants, set, data_root.

    Raises:
        InputError: what is asked cannot be run.
        KeyboardInterrupt: interrupted.
    """
    from gatera.studies.running.carried_out import carry_out, closing_lines
    from gatera.studies.running.supervisor import RunOptions

    if keep not in KEEPS:
        raise InputError(f"keep={keep!r}; it is one of {', '.join(KEEPS)}.")
    options = RunOptions(
        max_attempts=max_attempts,
        claim_timeout=claim_timeout,
        retry=retry,
        tracking_uri=tracking_uri,
        report_dir=Path(report_dir),
        measured=measured,
        allow_mixed=allow_mixed,
        keep=keep,
    )
    asking = Asked.of(study, **asked)
    try:
        made, outcome = carry_out(
            asking,
            Path(store),
            options,
            launcher=launcher,
            workers=workers,
            workers_per_gpu=workers_per_gpu,
            slurm=slurm,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_INTERRUPTED) from None  # through which code says nothing
    for line in closing_lines(outcome, Path(store), tracking_uri):
        print(line, file=sys.stderr)
    return _report(made, outcome, asking.request.data_root)


def rehearse(
    study: str | Path | Study,
    *,
    store: str | Path = STORE,
    workers: int | None = None,
    workers_per_gpu: int = 1,
    launcher: str = "local",
    slurm: str = "",
    **asked: Any,
) -> Rehearsal:
    """Try every row for a few steps and test items; return what the whole study would take.

    Checks data, memory and speed where the study is to run. It has a store of its own, beside the
    study's.

    Args:
        study: As for `run`, and so are the others.
        store: The study's store, which stays as it is.
        workers: How many.
        workers_per_gpu: Workers that share a GPU.
        launcher: What starts workers.
        slurm: Options of sbatch.
        asked: As for `run`.

    Raises:
        InputError: what is asked cannot be run.
        KeyboardInterrupt: interrupted.
    """
    from gatera.studies.running.rehearsal import rehearsed

    return rehearsed(
        Asked.of(study, **asked),
        Path(store),
        launcher=launcher,
        workers=workers,
        workers_per_gpu=workers_per_gpu,
        slurm=slurm,
    )


def _report(store: Store, outcome: Outcome, data_root: Path | None) -> Report:
    from gatera.studies.gathering.gather import gather
    from gatera.studies.views.progress import failure_lines

    plan = store.plan(outcome.snapshot.plan.id)
    return Report(
        gather(store, plan),
        store,
        data_root,
        outcome.report.files,
        tuple(failure_lines(outcome.snapshot)),
        outcome.warnings,
    )


def load(study: str | Path | Study, *, store: str | Path = STORE, **asked: Any) -> Report:
    """Return the report of what a store holds of a study; runs nothing.

    Args:
        study: As for `run`.
        store: The store's folder.
        asked: As for `run`.

    Raises:
        InputError: there is no such store, or no such plan in it.
    """
    return loaded(Asked.of(study, **asked), Path(store))


def loaded(asking: Asked, folder: Path, *, max_attempts: int | None = None) -> Report:
    """Return the report of what is asked; after `max_attempts` failures a trial has failed."""
    from gatera.studies.gathering.gather import gather
    from gatera.studies.store.store import Store

    store = Store(folder)
    record = gather(
        store,
        store.plan(asking.plan_id),
        max_attempts=max_attempts,
        study_sha256=asking.loaded.sha256,
    )
    return Report(record, store, asking.request.data_root)
