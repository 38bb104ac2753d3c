"""A worker: takes trials from the store, one at a time, and runs each in a process of its own.

It knows the directory only. The trial's process (`attempt.py`) comes from a forkserver that has the
training stack loaded, or starts anew where there is a GPU: libraries of the stack may start CUDA
when they are loaded (bitsandbytes does), and no fork of a process that has can use it. It ends by
itself when the pipe to its worker closes, however the worker died.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from gatera.studies.planning.plan import Plan
from gatera.studies.store.attempts import log_tail
from gatera.studies.store.claims import Claim
from gatera.studies.store.cleaning import remove, surplus_adapters
from gatera.studies.store.owner import owner_of_this_process
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import read_json
from gatera.studies.workers.attempt import NO_SPACE_STATUS, full_disk_error, run_attempt
from gatera.studies.workers.fitness import Fitness
from gatera.studies.workers.stalls import LOOK_SECONDS, StallWatch
from gatera.training.provenance.gpus import may_use_gpu
from gatera.trial import Trial

_IDLE_SECONDS = 0.5  # between two looks at a store in which others run the last trials
_PRELOAD = ("gatera.training.fitting",)
_PRELOADED_LAST = "gatera.studies.workers.shared_memory"


def work(
    folder: Path,
    *,
    plan_ids: Sequence[str],
    worker: str,
    max_attempts: int | None,
    claim_timeout: float,
    allow_mixed: bool = False,
    keep: str = "all",
    runs: str = "gatera.training",
    preload: Sequence[str] = _PRELOAD,
) -> None:
    """Run planned trials until none is left to run.

    Args:
        folder: The store.
        plan_ids: The plans to work on; none means all that the store holds.
        worker: This worker's name in claims; no two that live share one.
        max_attempts: Failures after which a trial is left alone; None: each kind's own limit.
        claim_timeout: Seconds without progress, on our own clock, after which another's claim is
            taken over, and a trial of our own is ended.
        allow_mixed: Whether to work on a machine unlike the one that others worked on.
        keep: Which adapters stay once they are scored, as `surplus_adapters` says.
        runs: The module that trains and scores, which the trial's process imports.
        preload: Modules that trials' processes find loaded, where there is no GPU.

    Raises:
        InputError: the store or a plan cannot be read, or this machine cannot run what is planned.
        OSError: the disk is full.
        SystemExit: SIGTERM or SIGINT came; the trial under way saved a checkpoint.
    """
    store = Store(folder)
    _Worker(
        store, plan_ids, worker, max_attempts, claim_timeout, allow_mixed, keep, runs, preload
    ).work()


class _Worker:
    def __init__(
        self,
        store: Store,
        plan_ids: Sequence[str],
        name: str,
        max_attempts: int | None,
        claim_timeout: float,
        allow_mixed: bool,
        keep: str,
        runs: str,
        preload: Sequence[str],
    ) -> None:
        self._store, self._plan_ids, self._name = store, plan_ids, name
        self._max_attempts, self._keep, self._runs = max_attempts, keep, runs
        self._fitness = Fitness(store, allow_mixed=allow_mixed)
        self._timeout = claim_timeout
        self._watch = StallWatch(store, claim_timeout)
        self._context: ForkServerContext | SpawnContext
        if may_use_gpu():
            self._context = multiprocessing.get_context("spawn")
        else:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload([*preload, _PRELOADED_LAST])
        self._read: tuple[object, ...] | None = None  # the plan files' signatures when last read
        self._plans: list[Plan] = []
        self._open: dict[str, Trial] = {}  # planned trials, by key, without those seen finished
        self._process: BaseProcess | None = None  # of the trial under way
        self._signal: int | None = None  # what asked us to end
        self._rests = False  # with no trial in our hands

    def work(self) -> None:
        self._disown_earlier_claims()
        with self._ending_when_asked():
            while self._signal is None:
                self._read_plans()
                claimed = self._claim_next()
                if claimed is not None:
                    self._run(*claimed)
                elif any(self._may_be_left(trial) for trial in self._open.values()):
                    self._declare_stalled()
                    self._rest()
                else:
                    return
            raise SystemExit(128 + self._signal)

    @contextlib.contextmanager
    def _ending_when_asked(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self._end) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Let the trial under way save a checkpoint, and end; at a second request, at once.

        Nothing is torn out of our hands: what was claimed is given back with a word about why.
        """
        again, self._signal = self._signal is not None, number
        if self._rests or (again and number == signal.SIGINT):
            raise SystemExit(128 + number)
        if self._process is not None:
            self._process.terminate()

    def _rest(self) -> None:
        """Wait for others, and end at once when asked meanwhile."""
        self._rests = True
        try:
            if self._signal is None:
                time.sleep(_IDLE_SECONDS)
        finally:
            self._rests = False

    def _disown_earlier_claims(self) -> None:
        """Give up what a worker of our name held: a scheduler has started it again, as us."""
        self._read_plans()
        for trial in self._open.values():
            attempt = self._store.claims.newest(trial.key)
            owner = self._store.claims.owner(trial.key, attempt) or {}
            if owner.get("worker") == self._name and self._store.claims.is_live(trial.key, attempt):
                self._store.claims.declare_dead(trial.key, attempt, "its worker was started again")

    # Taking a trial

    def _read_plans(self) -> None:
        """Look at all trials of the plans, each key once, where a plan was written since."""
        plan_ids = self._plan_ids or self._store.plan_ids()
        read = tuple((plan_id, self._store.plan_signature(plan_id)) for plan_id in plan_ids)
        if read == self._read:
            return
        self._open.clear()
        self._plans = [self._store.plan(plan_id) for plan_id in plan_ids]
        for plan in self._plans:
            for trial in plan.runnable:
                self._open.setdefault(trial.key, trial)
        self._read = read
        self._fitness.beside = tuple(self._open.values())

    def _claim_next(self) -> tuple[Trial, Claim] | None:
        for trial in list(self._open.values()):
            if self._store.has_result(trial.key):
                del self._open[trial.key]  # of thousands, only those left are looked at again
                continue
            newest = self._store.claims.newest(trial.key)  # first: all that follows is about it
            if not self._is_over(trial):
                note_lost_attempt(self._store, trial)
            if self._is_over(trial) or self._waits_for_weights(trial):
                continue
            if self._store.is_running(trial.key):
                continue
            self._fitness.check(trial)
            owner = owner_of_this_process(self._name)
            claim = self._store.claim(trial.key, owner, after=newest)
            if claim is not None and self._may_train(trial, claim):
                return trial, claim
        return None

    def _waits_for_weights(self, trial: Trial) -> bool:
        """Return whether somebody trains the weights that a trial needs."""
        weights = self._store.weights
        if trial.is_frozen or not weights.are_made_by_another(trial):
            return False
        return weights.of(trial) is None

    def _may_train(self, trial: Trial, claim: Claim) -> bool:
        """Take the right to train where a claimed trial needs to; give the claim back where not."""
        weights = self._store.weights
        if trial.is_frozen or weights.of(trial) is not None or weights.begin(trial, claim.attempt):
            return True
        message = "another trial trains the same weights"
        self._store.end_attempt(trial, claim.attempt, "interrupted", message=message)
        claim.release()
        return False

    def _is_over(self, trial: Trial) -> bool:
        key, store = trial.key, self._store
        return (
            store.has_result(key)
            or store.is_pruned(key)
            or store.has_failed(key, self._max_attempts)
        )

    def _may_be_left(self, trial: Trial) -> bool:
        """Return whether a trial may still need us: it runs, or was given up since we looked."""
        return self._store.is_running(trial.key) or not self._is_over(trial)

    def _declare_stalled(self) -> list[tuple[str, int]]:
        """Let the claims of others that stalled count no more; return all that stalled."""
        stalled = self._watch.stalled(self._store.begun(self._open))
        for key, attempt in stalled:
            owner = self._store.claims.owner(key, attempt) or {}
            if owner.get("worker") != self._name:
                self._store.claims.declare_dead(
                    key, attempt, f"no progress for {self._timeout:g} s"
                )
        return stalled

    # Running it

    def _run(self, trial: Trial, claim: Claim) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (str(self._store.folder), trial.to_json(), claim.attempt, theirs, self._runs)
        try:
            process = self._context.Process(target=run_attempt, args=arguments)
            start_guarded(process)
            theirs.close()
            self._process = process
            if self._signal is not None:  # it came while there was no process to tell
                process.terminate()
            stalled = self._wait(process, (trial.key, claim.attempt))
            self._process = None
        finally:
            ours.close()
        self._conclude(trial, claim.attempt, process.exitcode, stalled)
        claim.release()
        if self._store.has_result(trial.key):
            remove(surplus_adapters(self._store, self._plans, self._keep, beside=trial))

    def _wait(self, process: BaseProcess, own: tuple[str, int]) -> bool:
        """Wait for the trial's process; return whether it hung and was ended."""
        stalled = False
        while process.is_alive():
            process.join(LOOK_SECONDS)
            if own in self._declare_stalled():
                stalled = True
                process.kill()
        return stalled

    def _conclude(self, trial: Trial, attempt: int, status: int | None, stalled: bool) -> None:
        """Record why the trial's process ended without a result, where it could not itself."""
        store = self._store
        if status == NO_SPACE_STATUS:
            raise full_disk_error(store.folder)
        if status == 0 or store.has_result(trial.key) or store.record(trial.key, attempt):
            return
        if self._signal is not None:
            message = "its worker was asked to end"
            store.end_attempt(trial, attempt, "interrupted", message=message)
        elif stalled:
            _write_killed(store, trial, attempt, f"made no progress for {self._timeout:g} s")
        else:
            _write_killed(store, trial, attempt, _end_of(status))


def start_guarded(process: BaseProcess) -> None:
    """Start a trial's process so that signals to the whole group do not undo it.

    Schedulers send SIGTERM to a whole process group. A forkserver would end by it, its trials would
    look dead, and be ended before they could save a checkpoint: it stays deaf, and they open their
    ears in `run_attempt`. A process that starts anew has nothing to save before, but Ctrl-C is not
    meant for it.
    """
    multiprocessing.resource_tracker.ensure_running()  # which unblocks signals when it starts
    if isinstance(process, ForkServerProcess):
        with _blocked(signal.SIGTERM):
            multiprocessing.forkserver.ensure_running()
        process.start()
        return
    with _blocked(signal.SIGINT):
        process.start()


@contextlib.contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def note_lost_attempt(store: Store, trial: Trial) -> None:
    """Record that the newest attempt was killed with its worker, where nobody said how it ended."""
    key = trial.key
    attempt = store.claims.newest(key)
    # In this order: a result is there before its claim is given up.
    if not attempt or store.claims.is_live(key, attempt) or store.has_result(key):
        return
    if store.record(key, attempt) is None:
        dead = read_json(store.trial_folder(key) / f"claim.{attempt}.dead") or {}
        _write_killed(store, trial, attempt, dead.get("reason", "ended with its worker"))


def _write_killed(store: Store, trial: Trial, attempt: int, how: str) -> None:
    """Record a kill; one after which more is done than before counts against nothing."""
    message = f"{trial.variant}, seed {trial.seed}: {how}"
    tail = log_tail(store.attempt_folder(trial.key, attempt))
    store.end_attempt(trial, attempt, "killed", message=message, log_tail=tail)


def _end_of(status: int | None) -> str:
    if status is None or status >= 0:
        return f"the trial's process ended with status {status} and no word"
    name = signal.Signals(-status).name
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"the trial's process was killed by {name}{hint}"
