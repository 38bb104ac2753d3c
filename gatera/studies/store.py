"""The store: one folder that holds all that studies produced, and the only truth about it.

    format.json                     {"format": 1}
    plans/<stem>.json               what each study consists of
    trials/<key>/claim.<n>          attempt n's owner, locked while it lives
    trials/<key>/attempts/<n>/      metrics.jsonl, log, checkpoints, predictions, adapter
    trials/<key>/result.json        exists = finished; written once

Every file appears whole (temporary file, fsync, then link or rename), so that a reader never sees
half of one, and a process that dies at any moment leaves nothing that has to be repaired.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.locks import is_locked, try_lock
from gatera.studies.plan import Plan
from gatera.trial import Json, Trial, TrialResult

FORMAT = 1
_CLAIM = re.compile(r"claim\.(\d+)")

# Attempts that may fail before a trial is left alone, by kind of failure.
ATTEMPT_LIMITS = {"bug": 2, "not_finite": 2, "out_of_memory": 2, "killed": 5}


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended without a result."""

    attempt: int
    kind: str  # out_of_memory, not_finite, killed or bug
    message: str  # one line
    log_tail: str  # the last lines of the attempt's log


@dataclass(frozen=True)
class TrialStatus:
    """Where one trial stands, read from files alone."""

    state: str  # done, stale, running, failed or waiting
    attempt: int  # the newest claim, 0 where there is none
    progress: Json = None  # last line of the newest attempt's metrics.jsonl, where it is running
    owner: Json = None  # who holds the newest claim, where it is running
    failure: Failure | None = None  # of the newest attempt, where it failed


class Claim:
    """The right to run one attempt; lost when the process that holds it ends."""

    def __init__(self, key: str, attempt: int, descriptor: int) -> None:
        self.key = key
        self.attempt = attempt
        self._descriptor = descriptor

    def release(self) -> None:
        """Free the lock; the claim then counts as dead."""
        os.close(self._descriptor)


class Store:
    """One store folder.

    Raises:
        InputError: the folder belongs to another format, or is something else than a store.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder.absolute()
        marker = self.folder / "format.json"
        if create and not marker.exists():
            self._create(marker)
        if not marker.is_file():
            raise InputError(
                f"no store at {folder}; `run` makes one, --store names another folder."
            )
        try:
            found = json.loads(marker.read_text())["format"]
        except (ValueError, KeyError, TypeError):
            found = "unreadable"
        if found != FORMAT:
            raise InputError(
                f"the store at {folder} has format {found}, this gatera reads format {FORMAT}; "
                "name another folder with --store, or use the version of gatera that made it."
            )

    def _create(self, marker: Path) -> None:
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise InputError(
                f"{self.folder} is not empty and holds no store; name another folder with --store."
            )
        for name in ("plans", "trials"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(marker, json.dumps({"format": FORMAT}) + "\n")

    # Plans

    def write_plan(self, plan: Plan) -> None:
        """Store `plan` under its stem, in place of an older one."""
        # Keys keep their order: that of the variants is the order of the rows.
        text = json.dumps(plan.to_json(), indent=1, ensure_ascii=False)
        write_whole(self.folder / "plans" / f"{plan.stem}.json", text + "\n")

    def plan(self, stem: str) -> Plan:
        """Return the stored plan called `stem`.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        path = self.folder / "plans" / f"{stem}.json"
        try:
            return Plan.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            known = ", ".join(self.stems()) or "none"
            raise InputError(
                f"no plan {stem} in {self.folder}; it holds {known}. `run` writes a plan."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"plan {path} cannot be read ({error}); run the study again."
            ) from None

    def stems(self) -> list[str]:
        """Return the names of the stored plans."""
        return sorted(path.stem for path in (self.folder / "plans").glob("*.json"))

    # Claims

    def trial_folder(self, key: str) -> Path:
        """Return the folder of the trial with `key`."""
        return self.folder / "trials" / key

    def attempt_folder(self, key: str, attempt: int) -> Path:
        """Return the folder of one attempt."""
        return self.trial_folder(key) / "attempts" / str(attempt)

    def claim(self, key: str, owner: Json) -> Claim | None:
        """Take the trial with `key` for a new attempt.

        Returns None where it has a result, a live claim, or where somebody else was faster. The
        claim file is locked before it appears under its name, so that no moment exists at which
        it looks dead.
        """
        folder = self.trial_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        newest = self.newest_attempt(key)
        if self.has_result(key) or self._is_live(key, newest):
            return None
        descriptor, temporary = tempfile.mkstemp(prefix=".claim-", dir=folder)
        try:
            os.write(descriptor, json.dumps(owner).encode())
            locked = try_lock(descriptor)
            assert locked, "a file of our own is locked by somebody else"
            os.link(temporary, folder / f"claim.{newest + 1}")
        except FileExistsError:
            os.close(descriptor)
            return None
        finally:
            os.unlink(temporary)
        claim = Claim(key, newest + 1, descriptor)
        if self.has_result(key):
            claim.release()
            return None
        self.attempt_folder(key, claim.attempt).mkdir(parents=True, exist_ok=True)
        return claim

    def newest_attempt(self, key: str) -> int:
        """Return the number of the newest claim, 0 where there is none."""
        return max(self._attempts(key), default=0)

    def _attempts(self, key: str) -> Iterator[int]:
        folder = self.trial_folder(key)
        if folder.is_dir():
            for name in os.listdir(folder):
                if match := _CLAIM.fullmatch(name):
                    yield int(match[1])

    def is_running(self, key: str) -> bool:
        """Return whether somebody holds a live claim on the trial and has no result yet."""
        return not self.has_result(key) and self._is_live(key, self.newest_attempt(key))

    def _is_live(self, key: str, attempt: int) -> bool:
        return attempt > 0 and is_locked(self.trial_folder(key) / f"claim.{attempt}")

    def note_attempt(self, key: str, attempt: int, code_sha256: str) -> list[Path]:
        """Record which code runs an attempt; return the earlier attempts that it may resume.

        These are the ones that the same code ran, newest first.
        """
        note = self.attempt_folder(key, attempt) / "attempt.json"
        write_whole(note, json.dumps({"code_sha256": code_sha256}) + "\n")
        earlier = []
        for number in sorted(self._attempts(key), reverse=True):
            folder = self.attempt_folder(key, number)
            if number < attempt and _read_json(folder / "attempt.json") == {
                "code_sha256": code_sha256
            }:
                earlier.append(folder)
        return earlier

    # Results

    def has_result(self, key: str) -> bool:
        """Return whether the trial with `key` is finished."""
        return (self.trial_folder(key) / "result.json").exists()

    def commit(self, result: TrialResult) -> bool:
        """Write the result of an attempt, once: predictions first, then the result.

        Returns whether this result is the one that counts; False where another attempt was first,
        whose result stays.
        """
        predictions = self.predictions_path(result.key, result.attempt)
        _fsync(predictions)
        _fsync(predictions.parent)
        path = self.trial_folder(result.key) / "result.json"
        text = json.dumps(result.to_json(), indent=1, sort_keys=True, allow_nan=False)
        return link_whole(path, text + "\n")

    def result(self, key: str) -> TrialResult | None:
        """Return the result of the trial with `key`, None where it has none."""
        path = self.trial_folder(key) / "result.json"
        try:
            return TrialResult.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path} cannot be read ({error}); move it away and run the study again."
            ) from None

    def predictions_path(self, key: str, attempt: int) -> Path:
        """Return where an attempt keeps its predictions."""
        return self.attempt_folder(key, attempt) / "predictions.parquet"

    def retire_result(self, key: str, label: str) -> None:
        """Move the result of older code aside, so that its trial runs again; nothing is lost."""
        path = self.trial_folder(key) / "result.json"
        os.replace(path, path.with_name(f"result.{label}.json"))

    # Failures

    def write_failure(self, key: str, failure: Failure) -> None:
        """Record why an attempt ended without a result."""
        path = self.attempt_folder(key, failure.attempt) / "failure.json"
        fields = {
            "attempt": failure.attempt,
            "kind": failure.kind,
            "message": failure.message,
            "log_tail": failure.log_tail,
        }
        write_whole(path, json.dumps(fields, indent=1) + "\n")

    def failures(self, key: str) -> list[Failure]:
        """Return the failures that count against a trial, oldest first."""
        forgiven = self._forgiven(key)
        found = []
        for attempt in sorted(self._attempts(key)):
            path = self.attempt_folder(key, attempt) / "failure.json"
            if attempt > forgiven and path.exists():
                found.append(Failure(**json.loads(path.read_text())))
        return found

    def has_failed(self, key: str, max_attempts: int | None) -> bool:
        """Return whether a trial failed as often as it may; None: each kind's own limit."""
        kinds = [failure.kind for failure in self.failures(key)]
        return any(
            kinds.count(kind) >= (max_attempts or limit) for kind, limit in ATTEMPT_LIMITS.items()
        )

    def forgive_failures(self, key: str) -> None:
        """Let the failures so far count no more, as `run --retry failed` asks."""
        path = self.trial_folder(key) / "forgiven.json"
        write_whole(path, json.dumps({"up_to_attempt": self.newest_attempt(key)}) + "\n")

    def _forgiven(self, key: str) -> int:
        path = self.trial_folder(key) / "forgiven.json"
        return int(json.loads(path.read_text())["up_to_attempt"]) if path.exists() else 0

    # Status

    def status(
        self, trial: Trial, *, code_sha256: str, max_attempts: int | None = None
    ) -> TrialStatus:
        """Return where `trial` stands; reads files only."""
        key = trial.key
        attempt = self.newest_attempt(key)
        if (result := self.result(key)) is not None:
            stale = result.provenance.get("code_sha256") != code_sha256
            return TrialStatus("stale" if stale else "done", attempt)
        if self._is_live(key, attempt):
            owner = self.owner(key, attempt)
            return TrialStatus("running", attempt, self.progress(key, attempt), owner)
        if self.has_failed(key, max_attempts):
            return TrialStatus("failed", attempt, failure=self.failures(key)[-1])
        return TrialStatus("waiting", attempt)

    def progress(self, key: str, attempt: int) -> Json:
        """Return the last whole line of an attempt's metrics.jsonl; None where there is none."""
        lines = self.metrics(key, attempt)
        return lines[-1] if lines else None

    def metrics(self, key: str, attempt: int, *, skip: int = 0) -> list[dict[str, Json]]:
        """Return the whole lines of an attempt's metrics.jsonl after the first `skip`."""
        path = self.attempt_folder(key, attempt) / "metrics.jsonl"
        try:
            text = path.read_text()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind("\n") + 1].splitlines()[skip:]
        return [json.loads(line) for line in whole]

    def owner(self, key: str, attempt: int) -> Json:
        """Return what a claim says of its owner; None where it cannot be read."""
        return _read_json(self.trial_folder(key) / f"claim.{attempt}")


def owner_of_this_process(worker: str) -> dict[str, Json]:
    """Return what a claim says of its owner."""
    return {
        "worker": worker,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "claimed_at": time.time(),
    }


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that it appears whole, in place of what was there."""
    temporary = _write_temporary(path, text)
    os.replace(temporary, path)
    _fsync(path.parent)


def link_whole(path: Path, text: str) -> bool:
    """Write `text` to `path` so that it appears whole, once; False where `path` exists."""
    temporary = _write_temporary(path, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    _fsync(path.parent)
    return True


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> Json:
    """Return what `path` holds; None where it is missing or unreadable."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write_temporary(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    return temporary


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
