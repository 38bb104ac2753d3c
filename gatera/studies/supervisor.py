"""The supervisor: writes the plan, starts workers, follows the files, projects, reports.

It imports no torch. Killed, it is started again and catches up: all it knows is in the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gatera.errors import InputError
from gatera.reports.write import WrittenReport, write_report
from gatera.studies.gather import gather
from gatera.studies.launch import Launcher
from gatera.studies.launch.local import LocalLauncher, visible_gpus
from gatera.studies.locks import try_lock
from gatera.studies.plan import Plan
from gatera.studies.progress import Snapshot, take_snapshot
from gatera.studies.store import Store, owner_of_this_process, write_whole
from gatera.trial import Json

_POLL_SECONDS = 0.5
_PROJECT_SECONDS = 3.0


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes a result but the number of threads."""

    workers: int | None = None  # None: one a visible GPU, else one a CPU core
    workers_per_gpu: int = 1
    max_attempts: int | None = None  # None: each kind of failure has its own limit
    retry: str | None = None  # failed or stale
    tracking_uri: str | None = None  # None: SQLite in the store
    data_root: Path | None = None
    report_dir: Path = Path("reports")
    measured: bool = True
    allow_mixed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    snapshot: Snapshot
    report: WrittenReport
    warnings: tuple[str, ...]  # what went wrong outside the store: nothing of it is lost


def run(
    store: Store,
    plan: Plan,
    options: RunOptions,
    *,
    code_sha256: str,
    show: Callable[[Snapshot], None],
) -> Outcome:
    """Run what is missing of `plan`, then write its report.

    Args:
        store: Where everything is kept; one supervisor at a time.
        plan: The study's trials.
        options: How to carry it out.
        code_sha256: Hash of the code whose results count as current.
        show: Called every half second with where each trial stands.

    Raises:
        InputError: another supervisor holds the store, or the report refuses mixed results.
        KeyboardInterrupt: interrupted; the workers are stopped and everything is kept.
    """
    with supervising(store):
        store.write_plan(plan)
        _prepare_retries(store, plan, options, code_sha256)

        def look() -> Snapshot:
            return take_snapshot(
                store, plan, code_sha256=code_sha256, max_attempts=options.max_attempts
            )

        with _projecting(store, plan, options.tracking_uri) as projector:
            if look().unfinished:
                _run_workers(store, plan, options, look, show)
            record = gather(store, plan, code_sha256=code_sha256, max_attempts=options.max_attempts)
            report = write_report(
                record,
                options.report_dir,
                measured=options.measured,
                allow_mixed=options.allow_mixed,
            )
            projector.finish(report.files)
        return Outcome(look(), report, tuple(projector.warnings))


@contextlib.contextmanager
def supervising(store: Store) -> Iterator[None]:
    """Hold the store as its only supervisor.

    Raises:
        InputError: another process holds it; the message says which.
    """
    path = store.folder / "supervisor.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not try_lock(descriptor):
            holder = _read_holder(path)
            raise InputError(
                f"the store {store.folder} is held by {holder}; wait until it ends, or stop it."
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner_of_this_process("supervisor")).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _read_holder(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _prepare_retries(store: Store, plan: Plan, options: RunOptions, code_sha256: str) -> None:
    snapshot = take_snapshot(
        store, plan, code_sha256=code_sha256, max_attempts=options.max_attempts
    )
    for trial in plan.trials:
        state = snapshot.statuses[trial.key].state
        if state == "failed" and options.retry == "failed":
            store.forgive_failures(trial.key)
        if state == "stale" and options.retry == "stale":
            result = store.result(trial.key)
            assert result is not None
            store.retire_result(trial.key, str(result.provenance["code_sha256"])[:16])


# Workers


def _run_workers(
    store: Store,
    plan: Plan,
    options: RunOptions,
    look: Callable[[], Snapshot],
    show: Callable[[Snapshot], None],
) -> None:
    """Keep workers running until no trial is left to run."""
    launcher = LocalLauncher(store.folder / "logs", _worker_environment(options))
    ids = launcher.alive(_stored_workers(store))
    restarts = 0
    try:
        while (snapshot := look()).unfinished:
            show(snapshot)
            alive = launcher.alive(ids)
            if not alive and restarts > len(snapshot.unfinished) + 3:
                raise RuntimeError(
                    f"workers end before their work is done; see {store.folder / 'logs'}"
                )
            if not alive:
                restarts += 1
                ids = _start_workers(store, plan, options, launcher, len(snapshot.unfinished))
            time.sleep(_POLL_SECONDS)
        show(snapshot)
    finally:
        launcher.stop(ids)


def _start_workers(
    store: Store, plan: Plan, options: RunOptions, launcher: Launcher, unfinished: int
) -> set[str]:
    gpus = len(visible_gpus())
    count = options.workers or (gpus * options.workers_per_gpu) or cpu_count()
    command = [sys.executable, "-m", "gatera.studies", "work", str(store.folder)]
    command += ["--plan", plan.stem]
    if options.max_attempts is not None:
        command += ["--max-attempts", str(options.max_attempts)]
    threads = _threads(plan, options.workers, gpus)
    ids = launcher.start(min(count, unfinished), command, 1 if gpus else 0, threads)
    write_whole(store.folder / "workers.json", json.dumps(ids) + "\n")
    return set(ids)


def _threads(plan: Plan, workers: int | None, gpus: int) -> int:
    """Return the threads of each worker, a function of the options alone.

    Threads change the last bits of a result, so that they may not depend on how much is left.
    """
    if plan.scale == "tiny" or workers is None:
        return 1 if not gpus else max(1, cpu_count() // gpus)
    return max(1, cpu_count() // workers)


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _worker_environment(options: RunOptions) -> dict[str, str]:
    environment = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if options.data_root is not None:
        environment["GATERA_DATA_ROOT"] = str(options.data_root.absolute())
    return environment


def _stored_workers(store: Store) -> list[str]:
    try:
        ids: list[str] = json.loads((store.folder / "workers.json").read_text())
    except (FileNotFoundError, ValueError):
        return []
    return ids


# Projections


class Projector(threading.Thread):
    """Keeps Optuna and MLflow up to date beside the run, in one thread that alone writes them.

    What goes wrong here is a warning: the store is complete without it, and `sync` repeats it.
    """

    def __init__(self, store: Store, plan: Plan, uri: str | None) -> None:
        super().__init__(name="projector", daemon=True)
        self.warnings: list[str] = []
        self._store, self._plan, self._uri = store, plan, uri
        self._stop_event = threading.Event()
        self._files: tuple[Path, ...] = ()

    def run(self) -> None:
        """Project every few seconds until told to finish, then once more."""
        with self._warning("Optuna"):
            project_optuna(self._store, self._plan)
        with self._warning("MLflow"):
            from gatera.studies.tracking import Tracker

            tracker = Tracker(self._store, self._plan, self._uri)
            while not self._stop_event.wait(_PROJECT_SECONDS):
                tracker.sync()
                with self._warning("Optuna"):
                    project_optuna(self._store, self._plan)
            tracker.sync()
            if self._files:
                tracker.log_report(report_artifacts(self._files))
        with self._warning("Optuna"):
            project_optuna(self._store, self._plan)

    def finish(self, files: tuple[Path, ...] = ()) -> None:
        """Project what is left, put `files` on the parent run, and end."""
        self._files = files
        self._stop_event.set()
        self.join()

    @contextlib.contextmanager
    def _warning(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            self.warnings.append(
                f"{what} is not up to date ({type(error).__name__}: {text}); the store is "
                "complete, `sync` brings it up to date."
            )


@contextlib.contextmanager
def _projecting(store: Store, plan: Plan, uri: str | None) -> Iterator[Projector]:
    projector = Projector(store, plan, uri)
    projector.start()
    try:
        yield projector
    finally:
        projector.finish()


def project_optuna(store: Store, plan: Plan) -> None:
    """Bring Optuna's study up to date, with every stored plan that shares it."""
    from gatera.studies import schedule

    others = [store.plan(stem) for stem in store.stems() if stem != plan.stem]
    shared = [p for p in others if (p.study, p.scale) == (plan.study, plan.scale)]
    schedule.sync(store, [plan, *shared])


def report_artifacts(files: tuple[Path, ...]) -> Mapping[str, list[Path]]:
    """Return a report's files by the folder that they have among the artifacts."""
    folders: dict[str, list[Path]] = {}
    for path in files:
        folder = "report/figures" if path.suffix == ".png" else "report"
        folders.setdefault(folder, []).append(path)
    return folders


def synchronize(store: Store, uri: str | None) -> list[Json]:
    """Rebuild Optuna's and MLflow's view of every plan; return one row a plan.

    Raises:
        InputError: another supervisor holds the store.
    """
    from gatera.studies.tracking import Tracker

    rows: list[Json] = []
    with supervising(store):
        for stem in store.stems():
            plan = store.plan(stem)
            project_optuna(store, plan)
            Tracker(store, plan, uri).sync()
            rows.append({"plan": stem, "trials": len(plan.trials)})
    return rows
