"""Optuna's and MLflow's views, kept up to date beside a run and rebuilt from the store alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gatera.errors import InputError
from gatera.studies.gathering.answers import read_answers
from gatera.studies.gathering.gather import gather
from gatera.studies.interrupts import Interrupts
from gatera.studies.planning.plan import Plan
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import signature
from gatera.studies.views.mlflow_database import keys_in
from gatera.studies.views.told import Told, hashes
from gatera.trial import Json

if TYPE_CHECKING:
    from gatera.reports.forms.tracked import Tracked
    from gatera.studies.views.mlflow_view import Tracker
    from gatera.studies.views.optuna_view import OptunaView

WITHOUT_MLFLOW = "none"  # in place of a tracking URI

_PROJECT_SECONDS = 3.0
_NICE = 10  # of the thread that projects
_ANSWER_SECONDS = 3.0  # that a server has before it counts as away


class Projector(threading.Thread):
    """Keeps Optuna and MLflow up to date beside the run, in one thread that alone writes them.

    What goes wrong here is a warning: the store is complete without it, and `sync` repeats it.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        uri: str | None,
        max_attempts: int | None,
        *,
        models: bool = True,
    ) -> None:
        super().__init__(name="projector", daemon=True)
        self.warnings: list[str] = []
        self._store, self._plan, self._uri = store, plan, uri
        self._max_attempts, self._models = max_attempts, models
        self._stop_event = threading.Event()
        self._faults: dict[str, str] = {}  # by view, of its last projection
        self._view: OptunaView | None = None
        self._told: set[str] = set()  # views whose first fault was told while the run went on
        self._tracker: Tracker | None = None
        self._told_to_optuna = Told(store, plan, "Optuna")
        self._told_to_mlflow = Told(store, plan, f"MLflow at {_without_user(uri) or 'the store'}")
        self._files: tuple[Path, ...] = ()
        self._shown: Tracked | None = None  # of the report

    def run(self) -> None:
        """Project every few seconds until told to finish, then once more."""
        with contextlib.suppress(OSError, AttributeError):  # workers come first; Linux alone
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        ends = False
        while True:
            with self._noting("Optuna"):
                self._project_optuna(ends=ends)
            if self._uri != WITHOUT_MLFLOW:
                with self._noting("MLflow"):
                    self._project_mlflow(ends=ends)
            if ends:
                break
            ends = self._stop_event.wait(_PROJECT_SECONDS)
        self.warnings += [
            f"{what} is not up to date ({fault}); the store is complete, and `{self._sync_line()}` "
            "brings it up to date."
            for what, fault in self._faults.items()
        ]

    def news(self) -> list[str]:
        """Return what a user should hear while the run goes on; of each view once."""
        fresh = {w: fault for w, fault in dict(self._faults).items() if w not in self._told}
        self._told |= set(fresh)
        return [f"{w} is not up to date ({fault}); the trials go on." for w, fault in fresh.items()]

    def _sync_line(self) -> str:
        command = ["python", "-m", "gatera.studies", "sync", str(self._store.folder)]
        if self._uri is not None:
            command += ["--tracking-uri", self._uri]
        return shlex.join(command)

    def _project_optuna(self, *, ends: bool) -> None:
        """Bring Optuna up to the store, through a view that is made anew after a fault."""
        journal = self._store.folder / "optuna.journal"
        there = signature(journal)
        if self._view is None and there and self._told_to_optuna.holds(list(there)):
            return
        from gatera.studies.views.optuna_view import OptunaView

        view, self._view = self._view, None
        if view is None:
            view = OptunaView(self._store, self._plan, self._max_attempts)
            if (tuning := self._store.tuning_plan(self._plan)) is not None:
                OptunaView(self._store, tuning, self._max_attempts).sync()
        view.sync()
        if ends:
            self._told_to_optuna.note(signature(journal))
        self._view = view

    def _project_mlflow(self, *, ends: bool) -> None:
        """Bring MLflow up to the store, through a tracker that is made anew after a fault."""
        told = self._told_to_mlflow
        files = hashes(self._files) if ends else None
        if self._tracker is None and self._has_all_runs() and told.holds(files):
            return
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            check_that_it_answers(self._uri)
            from gatera.studies.views.mlflow_view import Tracker

            plan, limit = self._plan, self._max_attempts
            tracker = Tracker(self._store, plan, self._uri, limit, models=self._models)
            project_tuning_trials(self._store, self._plan, self._uri, self._max_attempts)
        tracker.sync()
        if ends and self._files:
            shown = self._shown or _shown(self._store, self._plan, self._max_attempts)
            tracker.log_report(report_artifacts(self._files), shown)
            told.note(files)
        self._tracker = tracker

    def _has_all_runs(self) -> bool:
        """Return whether no run was removed from the store's database, nor the database itself."""
        if self._uri is not None:
            return True
        there = keys_in(self._store.folder / "mlflow.db", self._plan.id)
        return {trial.key for trial in self._plan.trials} <= there

    def finish(self, files: tuple[Path, ...] = (), shown: Tracked | None = None) -> None:
        """Project what is left, put a report's files and numbers on the parent run, and end.

        Args:
            files: Of the report.
            shown: Its numbers; None where the report was up to date, and nobody computed them.
        """
        self._files, self._shown = files, shown
        self._stop_event.set()
        self.join()

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note what went wrong in place of what did before; nothing, where it came right."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            told = isinstance(error, InputError)
            self._faults[what] = text if told else f"{type(error).__name__}: {text}"
        else:
            self._faults.pop(what, None)


@contextlib.contextmanager
def projecting(
    store: Store,
    plan: Plan,
    uri: str | None,
    interrupts: Interrupts,
    max_attempts: int | None,
    *,
    models: bool = True,
) -> Iterator[Projector]:
    """Keep both views up to date; at the end write what is left, unless it is urgent.

    Without `models` MLflow's runs have no adapters: these may go at any time.
    """
    projector = Projector(store, plan, uri, max_attempts, models=models)
    projector.start()
    try:
        yield projector
    finally:
        if not interrupts.urgent:
            projector.finish()


def check_that_it_answers(uri: str | None) -> None:
    """Refuse a tracking server that is away; what it answers does not matter.

    Raises:
        InputError: nothing answers there within seconds.
    """
    if urlsplit(uri or "").scheme not in ("http", "https"):
        return
    try:
        urllib.request.urlopen(_without_user(uri), timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return
    except (OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return
        raise InputError(
            f"nothing answers at {uri}; start the server there, or name another with --tracking-uri"
        ) from None


def _without_user(uri: str | None) -> str:
    """Return an address without the name and the password that may stand in it."""
    parts = urlsplit(uri or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def project_tuning_trials(
    store: Store, plan: Plan, uri: str | None, max_attempts: int | None
) -> None:
    """Bring MLflow's view of a plan's tuning trials up to the store, where it has any."""
    from gatera.studies.views.mlflow_view import Tracker

    tuning = store.tuning_plan(plan)
    if tuning is not None:
        tracker = Tracker(store, tuning, uri, max_attempts)
        tracker.sync()
        if plan.tuning is not None and plan.tuning.is_settled:
            tracker.log_report({})


def _shown(store: Store, plan: Plan, max_attempts: int | None) -> Tracked:
    """Return a plan's table as MLflow shows it."""
    from gatera.reports.forms.tracked import tracked
    from gatera.reports.tables import build_table

    return tracked(build_table(gather(store, plan, max_attempts=max_attempts)))


def report_artifacts(files: tuple[Path, ...]) -> Mapping[str, list[Path]]:
    """Return a report's files by the folder that they have among the artifacts."""
    folders: dict[str, list[Path]] = {}
    for path in files:
        folder = "report/figures" if path.suffix == ".png" else "report"
        folders.setdefault(folder, []).append(path)
    return folders


def rebuild(store: Store, uri: str | None, max_attempts: int | None) -> list[Json]:
    """Bring Optuna's and MLflow's view of every plan up to the store; return one row a plan.

    A plan whose trials are all finished has its report among MLflow's artifacts, as after its run.

    Raises:
        InputError: nothing answers at `uri`.
    """
    from gatera.studies.views.optuna_view import OptunaView, drop_other_studies

    check_that_it_answers(uri)
    rows: list[Json] = []
    drop_other_studies(store, store.plan_ids())
    for plan_id in store.plan_ids():
        plan = store.plan(plan_id)
        OptunaView(store, plan, max_attempts).sync()
        if plan.is_tuning:  # of another plan, which comes with it
            continue
        if uri != WITHOUT_MLFLOW:
            _rebuild_mlflow(store, plan, uri, max_attempts)
        rows.append({"plan": plan_id, "trials": len(plan.trials)})
    return rows


def _rebuild_mlflow(store: Store, plan: Plan, uri: str | None, max_attempts: int | None) -> None:
    from gatera.reports.write import write_report
    from gatera.studies.views.mlflow_view import Tracker

    project_tuning_trials(store, plan, uri, max_attempts)
    tracker = Tracker(store, plan, uri, max_attempts)
    tracker.sync()
    if not take_snapshot(store, plan, max_attempts=max_attempts).unfinished:
        record = gather(store, plan, max_attempts=max_attempts)
        with tempfile.TemporaryDirectory(dir=store.folder, prefix=".report-") as folder:
            answers = read_answers(store, record)
            report = write_report(record, Path(folder), answers, allow_mixed=True)
            tracker.log_report(report_artifacts(report.files), report.tracked)
