"""The process of one attempt: runs the trial, commits its result or records why there is none."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from gatera.errors import InputError, is_full_disk
from gatera.studies.store import Failure, Store
from gatera.training.progress import PrunedError
from gatera.training.provenance import code_sha256
from gatera.trial import Trial, TrialResult

NO_SPACE_STATUS = errno.ENOSPC  # exit status of an attempt that found the disk full
_LOG_TAIL_LINES = 15


class Fit(Protocol):
    """What runs a trial; `gatera.training.fit` says what the arguments mean."""

    def __call__(
        self,
        trial: Trial,
        attempt_dir: Path,
        *,
        data_root: Path | None,
        resume_from: Sequence[Path],
        attempt: int,
        stop_file: Path,
    ) -> TrialResult:
        """Write the predictions into `attempt_dir` and return the result."""
        ...


def run_attempt(
    folder: str, trial_json: dict[str, object], attempt: int, worker: Connection, fit: Fit
) -> None:
    """Run one attempt of a trial in this process and commit its result, or record why not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches our worker, who asks us to end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=_end_with_worker, args=(worker,), daemon=True).start()
    store, trial = Store(Path(folder)), Trial.from_json(trial_json)
    try:
        _redirect_output(store.attempt_folder(trial.key, attempt))
        _fit_and_commit(store, trial, attempt, fit)
    except PrunedError as pruned:
        print(pruned)
    except SystemExit:  # SIGTERM during training; a checkpoint was saved
        raise
    except BaseException as error:
        if is_full_disk(error):
            _record_full_disk(store, trial, attempt)
            os._exit(NO_SPACE_STATUS)  # nothing buffered could be written any more
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
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)  # the module may know another by now


def _fit_and_commit(store: Store, trial: Trial, attempt: int, fit: Fit) -> None:
    began = time.monotonic()
    result = fit(
        trial,
        store.attempt_folder(trial.key, attempt),
        data_root=None,
        resume_from=store.note_attempt(trial.key, attempt, code_sha256()),
        attempt=attempt,
        stop_file=store.pruned_path(trial.key),
    )
    measured = {**result.measured, "attempt_seconds": time.monotonic() - began}
    if not store.commit(dataclasses.replace(result, measured=measured)):
        print("another attempt had committed a result first; this one does not count")


def _record_full_disk(store: Store, trial: Trial, attempt: int) -> None:
    with contextlib.suppress(OSError):  # there may be no room for this either
        store.write_failure(trial.key, Failure(attempt, "no_space", "the disk is full", ""))


def full_disk_error(folder: Path) -> OSError:
    """Return the error that a process without room for its files ends with."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _record_failure(store: Store, trial: Trial, attempt: int, error: BaseException) -> None:
    if not isinstance(error, InputError):
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    text = " ".join(str(error).split()) or type(error).__name__
    message = f"{trial.variant}, seed {trial.seed}: {type(error).__name__}: {text}"
    tail = log_tail(store.attempt_folder(trial.key, attempt))
    store.write_failure(trial.key, Failure(attempt, _kind(error), message, tail))


def _kind(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return "out_of_memory"
    return "not_finite" if name == "NotFiniteError" else "bug"


def log_tail(attempt_folder: Path) -> str:
    """Return the last lines of an attempt's log, "" where there is none."""
    try:
        lines = (attempt_folder / "log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-_LOG_TAIL_LINES:])
