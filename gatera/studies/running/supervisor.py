"""The supervisor: writes the plan, starts workers, follows the files, projects, reports.

It imports no torch. Killed, it is started again and catches up: all it knows is in the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.interrupts import Interrupts, interruptible
from gatera.studies.launch import Launcher, Slots
from gatera.studies.planning.plan import Plan
from gatera.studies.running.report import RunReport, report_of_run
from gatera.studies.store.cleaning import remove, surplus_adapters
from gatera.studies.store.locks import try_lock
from gatera.studies.store.owner import owner_of_this_process, worker_name
from gatera.studies.store.snapshot import Follower, Snapshot, take_snapshot
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import read_json
from gatera.studies.views.projection import projecting, rebuild
from gatera.studies.workers.pool import WorkerPool
from gatera.trial import Json

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes a result."""

    claim_timeout: float  # seconds without progress after which a claim counts as dead
    max_attempts: int | None = None  # None: each kind of failure has its own limit
    retry: str | None = None  # failed or stale
    tracking_uri: str | None = None  # None: SQLite in the store; "none": without MLflow
    report_dir: Path = Path("reports")
    measured: bool = True
    allow_mixed: bool = False
    data_root: Path | None = None  # None: GATERA_DATA_ROOT
    keep: str = "all"  # adapters that stay: all, best or none, as `surplus_adapters` says


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    snapshot: Snapshot
    report: RunReport
    warnings: tuple[str, ...]  # what went wrong outside the store: nothing of it is lost


def run(
    store: Store,
    plan: Plan,
    options: RunOptions,
    *,
    launcher: Launcher,
    slots: Slots,
    show: Callable[[Snapshot], None],
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Outcome:
    """Run what is missing of `plan`, then write its report.

    Args:
        store: Where everything is kept; one supervisor at a time.
        plan: The study's trials.
        options: How to carry it out.
        launcher: What starts workers.
        slots: How many there are, and what each has.
        show: Called every half second with where each trial stands.
        say: Called with a line that should not wait for the end.

    Raises:
        InputError: another supervisor holds the store, or the report refuses mixed results.
        OSError: the disk is full; the workers are stopped and everything is kept.
        KeyboardInterrupt: interrupted; the workers are stopped and everything is kept.
    """

    with supervising(store), interruptible() as interrupts:
        party = _Party(store, options, launcher, slots, show, interrupts)
        warnings = []
        if plan.tuning is not None:
            plan, tuning_warnings, failed = _tune(party, plan)
            warnings += tuning_warnings
            if failed is not None:
                report = _report(party, plan)
                return Outcome(failed, report, tuple(warnings))
        store.write_plan(plan)
        warnings += _prepare(party, plan)
        with projecting(
            store,
            plan,
            options.tracking_uri,
            interrupts,
            options.max_attempts,
            models=options.keep == "all",
        ) as projector:
            follower = Follower(store, plan, max_attempts=options.max_attempts)

            def look() -> Snapshot:
                for line in projector.news():
                    say(line)
                return follower.look()

            party.follow(plan, look)
            remove(surplus_adapters(store, [plan], options.keep))  # what killed workers left
            report = _report(party, plan)
            projector.finish(report.files, report.tracked)
        warnings += [*_unequal_results(store, plan), *projector.warnings]
        return Outcome(party.look(plan), report, tuple(warnings))


@dataclass(frozen=True)
class _Party:
    """What the phases of a run share."""

    store: Store
    options: RunOptions
    launcher: Launcher
    slots: Slots
    show: Callable[[Snapshot], None]
    interrupts: Interrupts

    def look(self, plan: Plan) -> Snapshot:
        """Return where each trial of a plan stands."""
        return take_snapshot(self.store, plan, max_attempts=self.options.max_attempts)

    def follow(self, plan: Plan, look: Callable[[], Snapshot]) -> None:
        """Keep workers on a plan until no trial is left to run."""
        if not look().unfinished:
            return
        pool = WorkerPool(
            self.store,
            plan.id,
            self.launcher,
            self.slots,
            max_attempts=self.options.max_attempts,
            claim_timeout=self.options.claim_timeout,
            allow_mixed=self.options.allow_mixed,
            keep=self.options.keep,
        )
        try:
            while True:
                pool.look()
                snapshot = look()
                self.show(snapshot)
                if not snapshot.unfinished:
                    return
                pool.tend(snapshot)
                time.sleep(_POLL_SECONDS)
        finally:
            self.interrupts.outlast(pool.stop)


def _tune(party: _Party, plan: Plan) -> tuple[Plan, list[str], Snapshot | None]:
    """Find each row's settings; return the plan with them, warnings, and None.

    Where tuning trials failed, the plan is returned as it was, with where its tuning stands.

    Raises:
        InputError: every trial of a row diverged.
    """
    from gatera.studies.search.tuner import Tuner

    def tuner() -> Tuner:
        return Tuner(party.store, plan, max_attempts=party.options.max_attempts)

    warnings = _prepare(party, tuner().plan)
    searching = tuner()
    searching.advance()
    if searching.settled() is None:
        party.store.write_plan(plan)  # whose trials wait
        party.follow(searching.plan, searching.advance)
    snapshot = searching.advance()
    warnings += _unequal_results(party.store, searching.plan)
    settled = searching.settled()
    return (plan, warnings, snapshot) if settled is None else (settled, warnings, None)


def _prepare(party: _Party, plan: Plan) -> list[str]:
    """Let what is to run again run again; return what was found damaged."""
    damaged = _damaged_results(party.store, plan)
    _prepare_retries(party.store, plan, party.options.retry, party.look(plan))
    return damaged


def _report(party: _Party, plan: Plan) -> RunReport:
    options = party.options
    return report_of_run(
        party.store,
        plan,
        options.report_dir,
        max_attempts=options.max_attempts,
        measured=options.measured,
        allow_mixed=options.allow_mixed,
        data_root=options.data_root,
    )


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
        os.pwrite(descriptor, json.dumps(owner_of_this_process(worker_name())).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _read_holder(path: Path) -> str:
    owner = read_json(path)
    return f"process {owner['pid']} on {owner['host']}" if owner else "another process"


def _prepare_retries(store: Store, plan: Plan, retry: str | None, snapshot: Snapshot) -> None:
    for trial in plan.trials:
        state = snapshot.statuses[trial.key].state
        if state == "failed" and retry == "failed":
            store.forgive_failures(trial.key)
        if state == "stale" and retry == "stale":
            result = store.result(trial.key)
            assert result is not None
            store.retire_result(trial.key, result.code_sha256[:16])


def _damaged_results(store: Store, plan: Plan) -> list[str]:
    found = ((trial, store.damage(trial.key)) for trial in plan.trials)
    return [
        f"{trial.variant}, seed {trial.seed}: {damage}; the result was set aside and the trial "
        "ran again."
        for trial, damage in found
        if damage
    ]


def _unequal_results(store: Store, plan: Plan) -> list[str]:
    return [
        f"{trial.variant}, seed {trial.seed}: attempt {attempt} ended late with another result "
        "than the one that counts; the same trial gave two results on these machines."
        for trial in plan.trials
        for attempt in store.unequal_attempts(trial.key)
    ]


def synchronize(store: Store, uri: str | None, max_attempts: int | None) -> list[Json]:
    """Rebuild Optuna's and MLflow's view of every plan; return one row a plan.

    Raises:
        InputError: another supervisor holds the store.
    """
    with supervising(store):
        return rebuild(store, uri, max_attempts)
