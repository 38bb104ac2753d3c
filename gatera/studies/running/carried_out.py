"""A study as it is asked for, run: what it will do and where to look first, the answer last."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path

from gatera.studies.asking import STORE, Asked
from gatera.studies.launch import choose
from gatera.studies.planning.parameters import describe_variants
from gatera.studies.running.supervisor import Outcome, RunOptions, run
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.store.store import Store
from gatera.studies.views.budget import as_stored
from gatera.studies.views.display import Display
from gatera.studies.views.forecast import opening_line
from gatera.studies.views.progress import failure_lines

_ANSWER_LINES = 3  # of the findings, at the end of a run


def carry_out(
    asking: Asked,
    folder: Path,
    options: RunOptions,
    *,
    launcher: str,
    workers: int | None,
    workers_per_gpu: int,
    slurm: str,
) -> tuple[Store, Outcome]:
    """Run what is missing of what is asked; return the store, and what the run ended with.

    What will be done, and progress, go to stderr, or into a notebook's cell.
    """
    plan, data_root = asking.plan(strict=True), asking.request.data_root
    if not (folder / "plans" / f"{plan.id}.json").exists():
        describe_variants(plan)  # refuses what no model can be built for, before anything changes
    logs = folder.absolute() / "logs"
    if launcher == "slurm":
        starts, slots = choose.slurm(logs, data_root, workers, slurm)
    else:
        starts, slots = choose.local(logs, data_root, plan.scale, workers, workers_per_gpu)
    store = Store(folder, create=True)
    known = as_stored(store, plan)
    before = take_snapshot(store, known, max_attempts=options.max_attempts)
    opening = opening_line(known, before, slots.workers, options.retry)
    with Display([opening, *_where(asking, folder, options)], sys.stderr) as display:
        outcome = run(
            store,
            plan,
            dataclasses.replace(options, data_root=data_root),
            launcher=starts,
            slots=slots,
            show=display.show,
            say=display.say,
        )
    return store, outcome


def _where(asking: Asked, folder: Path, options: RunOptions) -> list[str]:
    """Return where a run's results go, and how to follow it."""
    lines = [f"store: {folder}; report: in {options.report_dir}{os.sep}"]
    if asking.words is not None:
        lines.append(f"watch: {_command('status', *asking.words, '--watch', store=folder)}")
    return [*lines, *_mlflow(folder, options.tracking_uri)]


def _mlflow(folder: Path, tracking_uri: str | None) -> list[str]:
    """Return where MLflow's view is, a line; none where there is no such view."""
    if tracking_uri == "none":
        return []
    return [f"MLflow: {tracking_uri or _command('ui', store=folder)}"]


def _command(*words: str, store: Path) -> str:
    """Return a command to type, on a store."""
    named = [] if store == Path(STORE) else ["--store", str(store)]
    return shlex.join(["python", "-m", "gatera.studies", *words, *named])


def closing_lines(outcome: Outcome, folder: Path, tracking_uri: str | None) -> list[str]:
    """Return what a run says last: what went wrong, the answer, and where it is."""
    return [
        *outcome.warnings,
        *failure_lines(outcome.snapshot),
        *(f"- {sentence}" for sentence in outcome.report.findings[:_ANSWER_LINES]),
        *outcome.report.file_lines,
        *_mlflow(folder, tracking_uri),
    ]
