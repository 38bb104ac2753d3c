"""A worker: takes trials from the store, one at a time, and runs each in a process of its own.

It knows the directory only. The trial's process comes from a forkserver that has the training
stack loaded, and ends by itself when the pipe to its worker closes, however the worker died.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.store import Claim, Failure, Store, owner_of_this_process
from gatera.trial import Trial

_IDLE_SECONDS = 0.5  # between two looks at a store in which others run the last trials
_LOG_TAIL_LINES = 15
_PRELOAD = ["gatera.training.fitting"]


def work(folder: Path, *, stems: Sequence[str], worker: str, max_attempts: int | None) -> None:
    """Run planned trials until none is left to run.

    Args:
        folder: The store.
        stems: The plans to work on; none means all that the store holds.
        worker: This worker's name in claims.
        max_attempts: Failures after which a trial is left alone; None: each kind's own limit.

    Raises:
        InputError: the store or a plan cannot be read.
    """
    store = Store(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    while True:
        trials = _planned(store, stems)
        claimed = _claim_next(store, trials, worker, max_attempts)
        if claimed is not None:
            trial, claim = claimed
            _run_in_a_process(context, store, trial, claim)
            claim.release()
        elif any(store.is_running(trial.key) for trial in trials):
            time.sleep(_IDLE_SECONDS)
        else:
            return


def _planned(store: Store, stems: Sequence[str]) -> list[Trial]:
    """Return the trials of the plans, each key once."""
    trials: dict[str, Trial] = {}
    for stem in stems or store.stems():
        for trial in store.plan(stem).trials:
            trials.setdefault(trial.key, trial)
    return list(trials.values())


def _claim_next(
    store: Store, trials: Sequence[Trial], worker: str, max_attempts: int | None
) -> tuple[Trial, Claim] | None:
    for trial in trials:
        if store.has_result(trial.key) or store.has_failed(trial.key, max_attempts):
            continue
        claim = store.claim(trial.key, owner_of_this_process(worker))
        if claim is not None:
            return trial, claim
    return None


def _run_in_a_process(
    context: multiprocessing.context.ForkServerContext, store: Store, trial: Trial, claim: Claim
) -> None:
    ours, theirs = context.Pipe()
    process = context.Process(
        target=run_attempt, args=(str(store.folder), trial.to_json(), claim.attempt, theirs)
    )
    process.start()
    theirs.close()
    process.join()
    ours.close()
    if process.exitcode is not None and process.exitcode < 0:
        name = signal.Signals(-process.exitcode).name
        message = f"the trial's process was killed by {name}"
        if name == "SIGKILL":
            message += "; the system may have run out of memory"
        tail = _log_tail(store.attempt_folder(trial.key, claim.attempt))
        store.write_failure(trial.key, Failure(claim.attempt, "killed", message, tail))


def run_attempt(
    folder: str, trial_json: dict[str, object], attempt: int, worker: Connection
) -> None:
    """Run one attempt of a trial in this process and commit its result, or record why not."""
    threading.Thread(target=_end_with_worker, args=(worker,), daemon=True).start()
    store, trial = Store(Path(folder)), Trial.from_json(trial_json)
    attempt_folder = store.attempt_folder(trial.key, attempt)
    _redirect_output(attempt_folder)
    try:
        _fit_and_commit(store, trial, attempt)
    except BaseException as error:
        _record_failure(store, trial, attempt, error)
        raise SystemExit(1) from None


def _end_with_worker(worker: Connection) -> None:
    """Wait for the pipe to close; then end this process at once."""
    with contextlib.suppress(EOFError, OSError):
        worker.recv()
    os._exit(1)


def _redirect_output(attempt_folder: Path) -> None:
    """Send what this process prints to the attempt's log, and its temporary files beside it."""
    attempt_folder.mkdir(parents=True, exist_ok=True)
    log = os.open(attempt_folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    temporary = attempt_folder / "tmp"
    temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)


def _fit_and_commit(store: Store, trial: Trial, attempt: int) -> None:
    from gatera.training import fit  # brings torch: the forkserver has it loaded already
    from gatera.training.provenance import code_sha256

    attempt_folder = store.attempt_folder(trial.key, attempt)
    earlier = store.note_attempt(trial.key, attempt, code_sha256())
    result = fit(trial, attempt_folder, data_root=None, resume_from=earlier, attempt=attempt)
    if not store.commit(result):
        print("another attempt had committed a result first; this one does not count")


def _record_failure(store: Store, trial: Trial, attempt: int, error: BaseException) -> None:
    if not isinstance(error, InputError):
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    text = " ".join(str(error).split()) or type(error).__name__
    message = f"{trial.variant}, seed {trial.seed}: {type(error).__name__}: {text}"
    tail = _log_tail(store.attempt_folder(trial.key, attempt))
    store.write_failure(trial.key, Failure(attempt, _kind(error), message, tail))


def _kind(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, SystemExit):  # SIGTERM during training; a checkpoint was saved
        return "killed"
    return "not_finite" if name == "NotFiniteError" else "bug"


def _log_tail(attempt_folder: Path) -> str:
    try:
        lines = (attempt_folder / "log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-_LOG_TAIL_LINES:])
