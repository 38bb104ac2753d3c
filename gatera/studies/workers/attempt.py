"""The process of one attempt: trains what is not trained yet, scores, commits, says how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, cast

from gatera.errors import InputError, is_full_disk
from gatera.studies.store.attempts import log_tail
from gatera.studies.store.store import Store
from gatera.training import metrics_log
from gatera.training.metrics_log import PrunedError
from gatera.training.provenance.machine import Machine
from gatera.trial import Trained, Trial, TrialResult

_NO_CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # of torch, in a RuntimeError
NO_SPACE_STATUS = errno.ENOSPC  # exit status of an attempt that found the disk full


class Work(Protocol):
    """What makes weights and scores them: `gatera.training`, which says what the arguments mean."""

    def train(
        self,
        trial: Trial,
        attempt_dir: Path,
        *,
        data_root: Path | None,
        resume_from: Sequence[Path],
        attempt: int,
        stop_file: Path | None,
    ) -> Trained:
        """Write the adapter into `attempt_dir` and return what is known of it."""
        ...

    def score(
        self,
        trial: Trial,
        attempt_dir: Path,
        *,
        data_root: Path | None,
        trained: Trained | None,
        adapter: Path | None,
        answered: Sequence[Path],
        attempt: int,
    ) -> TrialResult:
        """Write the predictions into `attempt_dir` and return the result."""
        ...


def run_attempt(
    folder: str, trial_json: dict[str, object], attempt: int, worker: Connection, work: str
) -> None:
    """Run one attempt of a trial in this process and commit its result, or record why not.

    Args:
        folder: The store's.
        trial_json: The trial.
        attempt: The number of the claim that it runs under.
        worker: Closes when our worker ends.
        work: Name of the module that trains and scores.
    """
    metrics_log.begin_attempt()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches our worker, who asks us to end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=_end_with_worker, args=(worker,), daemon=True).start()
    store, trial = Store(Path(folder)), Trial.from_json(trial_json)
    try:
        _redirect_output(store.attempt_folder(trial.key, attempt))
        _run_and_commit(store, trial, attempt, cast(Work, importlib.import_module(work)))
    except PrunedError as pruned:
        print(pruned)
        _end(store, trial, attempt, "pruned", message=str(pruned))
    except SystemExit:  # SIGTERM during training; a checkpoint was saved
        raise
    except BaseException as error:
        if is_full_disk(error):
            with contextlib.suppress(OSError):  # there may be no room for this either
                _end(store, trial, attempt, "no_space", message="the disk is full")
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


def _run_and_commit(store: Store, trial: Trial, attempt: int, work: Work) -> None:
    folder = store.attempt_folder(trial.key, attempt)
    store.note_attempt(trial.key, attempt, dataclasses.asdict(Machine.here()))
    planned, trial = trial, in_smaller_parts(trial, store.times_out_of_memory(trial.key))
    trained = None if trial.is_frozen else _trained(store, trial, attempt, work)
    keeps = trained is not None and bool(trained.adapter_sha256)  # a tuning trial keeps none
    result = work.score(
        trial,
        folder,
        data_root=None,
        trained=trained,
        adapter=store.weights.adapter_folder(trained) if trained is not None and keeps else None,
        answered=store.answered(trial, attempt),
        attempt=attempt,
    )
    _end(store, trial, attempt, "finished")
    if not store.commit(dataclasses.replace(result, config=planned.config)):
        print("another attempt had committed a result first; this one does not count")


def in_smaller_parts(trial: Trial, times: int) -> Trial:
    """Return a trial with batches split in two, and again, for as often as memory ran out.

    A step sees the same items, in more parts; validation and scoring answer fewer items at once.
    None of that is in a trial's key, since it changes the last bits alone. The result declares it:
    its provenance has the parts that were used, its configuration those that were planned.
    """
    sections = {section: dict(fields) for section, fields in trial.config.items()}
    train = sections.get("train", {})
    if times and "accumulation" in train:
        train["accumulation"] = _divisor(train["batch_size"], train["accumulation"] * 2**times)
    for section, name in (("train", "validation_batch_size"), ("eval", "batch_size")):
        if name in sections.get(section, {}):
            sections[section][name] = max(1, sections[section][name] // 2**times)
    return dataclasses.replace(trial, config=sections)


def _divisor(of: int, least: int) -> int:
    """Return the smallest divisor of a number that is at least so large, at most the number."""
    return next(n for n in range(min(least, of), of + 1) if of % n == 0)


def _trained(store: Store, trial: Trial, attempt: int, work: Work) -> Trained:
    """Return the weights that the store has of this trial's training key, or make them."""
    known = store.weights.of(trial)
    if known is not None:
        print(f"the weights are those of attempt {known.attempt} of trial {known.key}", flush=True)
        return known
    made = work.train(
        trial,
        store.attempt_folder(trial.key, attempt),
        data_root=None,
        resume_from=store.resumable(trial, attempt),
        attempt=attempt,
        stop_file=store.pruned_path(trial.key),
    )
    return store.weights.keep(made, trial) if made.adapter_sha256 else made


def _end(store: Store, trial: Trial, attempt: int, ended: str, message: str = "") -> None:
    seconds = metrics_log.seconds_of_attempt()
    store.end_attempt(trial, attempt, ended, seconds=seconds, message=message)


def full_disk_error(folder: Path) -> OSError:
    """Return the error that a process without room for its files ends with."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _record_failure(store: Store, trial: Trial, attempt: int, error: BaseException) -> None:
    if not isinstance(error, InputError):
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    text = " ".join(str(error).split()) or type(error).__name__
    what = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    store.end_attempt(
        trial,
        attempt,
        _kind(error),
        seconds=metrics_log.seconds_of_attempt(),
        message=f"{trial.variant}, seed {trial.seed}: {what}{text}",
        log_tail=log_tail(store.attempt_folder(trial.key, attempt)),
    )


def _kind(error: BaseException) -> str:
    name = type(error).__name__
    out_of_memory = isinstance(error, MemoryError) or name == "OutOfMemoryError"
    if out_of_memory or _NO_CPU_MEMORY in str(error):
        return "out_of_memory"
    if isinstance(error, InputError):
        return "input"
    return "not_finite" if name == "NotFiniteError" else "bug"
