"""The store: one folder that holds all that studies produced, and the only truth about it.

    format.json                     {"format": 1}
    plans/<stem>.json               what each study consists of
    trials/<key>/claim.<n>          attempt n's owner, locked while it lives
    trials/<key>/claim.<n>.dead     why the claim counts no more, though its lock may be held
    trials/<key>/attempts/<n>/      metrics.jsonl, log, checkpoints, predictions, adapter
    trials/<key>/result.json        exists = finished; written once

Every file appears whole (temporary file, fsync, then link or rename), so that a reader never sees
half of one, and a process that dies at any moment leaves nothing that has to be repaired.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.files import file_sha256, link_whole, read_json, write_whole
from gatera.studies.locks import is_locked, try_lock
from gatera.studies.plan import Plan
from gatera.studies.results import CheckedResult, ResultReader, result_sha256, result_text
from gatera.training.files import (
    ADAPTER_FOLDER,
    METRICS_FILE,
    PREDICTIONS_FILE,
    checkpointed_steps,
    has_answered,
    sync_to_disk,
)
from gatera.trial import Json, Trial, TrialResult

FORMAT = 1
_CLAIM = re.compile(r"claim\.(\d+)")
_LAST_LINES_BYTES = 8192  # holds a few lines of metrics.jsonl

# Attempts that may fail before a trial is left alone, by kind of failure. Other kinds count for
# nothing: "interrupted" (killed or asked to end, its work kept) and "no_space" (the disk is full).
ATTEMPT_LIMITS = {"bug": 2, "not_finite": 2, "out_of_memory": 2, "killed": 5}


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended without a result."""

    attempt: int
    kind: str  # out_of_memory, not_finite, killed, bug, interrupted or no_space
    message: str  # one line
    log_tail: str  # the last lines of the attempt's log


@dataclass(frozen=True)
class TrialStatus:
    """Where one trial stands, read from files alone."""

    state: str  # done, stale, running, failed, pruned or waiting
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
        self._reader = ResultReader(self.predictions_path)
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
        if create:
            for name in ("plans", "trials"):
                (self.folder / name).mkdir(exist_ok=True)

    def _create(self, marker: Path) -> None:
        """Make the marker; what a killed process left of it is no hindrance."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        if any(not path.name.startswith(f".{marker.name}-") for path in found):
            raise InputError(
                f"{self.folder} is not empty and holds no store; name another folder with --store."
            )
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
        it looks dead. A damaged result is moved aside, so that the new one finds room.
        """
        folder = self.trial_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        newest = self.newest_attempt(key)
        if self.has_result(key) or self.is_live(key, newest):
            return None
        descriptor = self._link_locked(folder, newest + 1, owner)
        if descriptor is None:
            return None
        claim = Claim(key, newest + 1, descriptor)
        if self.has_result(key):
            claim.release()
            return None
        if self.damage(key):
            self.retire_result(key, f"damaged-{claim.attempt}")
        self.attempt_folder(key, claim.attempt).mkdir(parents=True, exist_ok=True)
        return claim

    def _link_locked(self, folder: Path, attempt: int, owner: Json) -> int | None:
        """Make the claim file and return its locked descriptor; None where somebody else did."""
        descriptor, temporary = tempfile.mkstemp(prefix=".claim-", dir=folder)
        try:
            os.write(descriptor, json.dumps(owner).encode())
            os.fchmod(descriptor, 0o644)
            locked = try_lock(descriptor)
            assert locked, "a file of our own is locked by somebody else"
            os.link(temporary, folder / f"claim.{attempt}")
        except FileExistsError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            os.unlink(temporary)
        return descriptor

    def newest_attempt(self, key: str) -> int:
        """Return the number of the newest claim, 0 where there is none."""
        return max(self.attempts(key), default=0)

    def attempts(self, key: str) -> list[int]:
        """Return the numbers of all claims, ascending."""
        try:
            names = os.listdir(self.trial_folder(key))
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for name in names if (match := _CLAIM.fullmatch(name)))

    def is_running(self, key: str) -> bool:
        """Return whether somebody holds a live claim on the trial and has no result yet."""
        return not self.has_result(key) and self.is_live(key, self.newest_attempt(key))

    def is_live(self, key: str, attempt: int) -> bool:
        """Return whether a claim is locked, and was not declared dead."""
        claim = self.trial_folder(key) / f"claim.{attempt}"
        return attempt > 0 and is_locked(claim) and not Path(f"{claim}.dead").exists()

    def is_held(self, key: str, attempt: int) -> bool:
        """Return whether a claim is locked, declared dead or not: its process may still write."""
        return is_locked(self.trial_folder(key) / f"claim.{attempt}")

    def hangs(self, key: str, attempt: int) -> bool:
        """Return whether a claim was declared dead and its process still holds the lock."""
        dead = self.trial_folder(key) / f"claim.{attempt}.dead"
        return dead.exists() and self.is_held(key, attempt)

    def declare_dead(self, key: str, attempt: int, reason: str) -> None:
        """Let a claim count no more, whoever holds its lock."""
        path = self.trial_folder(key) / f"claim.{attempt}.dead"
        link_whole(path, json.dumps({"reason": reason}) + "\n")

    def owner(self, key: str, attempt: int) -> Json:
        """Return what a claim says of its owner; None where it cannot be read."""
        return read_json(self.trial_folder(key) / f"claim.{attempt}")

    def note_attempt(self, key: str, attempt: int, code_sha256: str) -> list[Path]:
        """Record which code runs an attempt; return the earlier attempts that it may resume.

        These are the ones that the same code ran, newest first.
        """
        note = self.attempt_folder(key, attempt) / "attempt.json"
        write_whole(note, json.dumps({"code_sha256": code_sha256}) + "\n")
        earlier = (self.attempt_folder(key, n) for n in reversed(self.attempts(key)) if n < attempt)
        return [f for f in earlier if read_json(f / "attempt.json") == {"code_sha256": code_sha256}]

    # Results

    def has_result(self, key: str) -> bool:
        """Return whether the trial with `key` is finished, with a result that is whole."""
        return self.result(key) is not None

    def result(self, key: str) -> TrialResult | None:
        """Return the result of the trial with `key`; None where it has none that is whole."""
        return self._checked(key).result

    def damage(self, key: str) -> str | None:
        """Return what is wrong with the result of a trial; None where nothing is."""
        return self._checked(key).damage

    def _checked(self, key: str) -> CheckedResult:
        return self._reader.read(key, self.trial_folder(key) / "result.json")

    def commit(self, result: TrialResult) -> bool:
        """Write the result of an attempt, once: predictions first, then the result.

        Returns whether this result is the one that counts; False where another attempt was first,
        whose result stays. Whether the two agree is then noted beside the attempt.

        Raises:
            RuntimeError: the predictions on disk are not those of the result.
        """
        folder = self.attempt_folder(result.key, result.attempt)
        predictions = folder / PREDICTIONS_FILE
        for path in (predictions, *sorted((folder / ADAPTER_FOLDER).glob("*"))):
            sync_to_disk(path)
        sync_to_disk(folder)
        if file_sha256(predictions) != result.predictions_sha256:
            raise RuntimeError(f"{predictions} does not hold what was written; check the disk.")
        if link_whole(self.trial_folder(result.key) / "result.json", result_text(result)):
            return True
        self._note_late(result)
        return False

    def _note_late(self, late: TrialResult) -> None:
        counts = self.result(late.key)
        equal = counts is not None and result_sha256(counts) == result_sha256(late)
        path = self.attempt_folder(late.key, late.attempt) / "late.json"
        write_whole(path, json.dumps({"equal": equal}) + "\n")

    def unequal_attempts(self, key: str) -> list[int]:
        """Return the attempts whose late result was another than the one that counts."""
        folders = ((n, self.attempt_folder(key, n)) for n in self.attempts(key))
        return [n for n, folder in folders if read_json(folder / "late.json") == {"equal": False}]

    def predictions_path(self, key: str, attempt: int) -> Path:
        """Return where an attempt keeps its predictions."""
        return self.attempt_folder(key, attempt) / PREDICTIONS_FILE

    def retire_result(self, key: str, label: str) -> None:
        """Move a result aside, so that its trial runs again; nothing is lost."""
        path = self.trial_folder(key) / "result.json"
        os.replace(path, path.with_name(f"result.{label}.json"))

    # Failures and pruning

    def write_failure(self, key: str, failure: Failure) -> None:
        """Record why an attempt ended without a result."""
        path = self.attempt_folder(key, failure.attempt) / "failure.json"
        write_whole(path, json.dumps(dataclasses.asdict(failure), indent=1) + "\n")

    def failure(self, key: str, attempt: int) -> Failure | None:
        """Return why an attempt ended without a result; None where nobody said."""
        fields = read_json(self.attempt_folder(key, attempt) / "failure.json")
        return None if fields is None else Failure(**fields)

    def failures(self, key: str) -> list[Failure]:
        """Return the failures that count against a trial, oldest first."""
        forgiven = (read_json(self.trial_folder(key) / "forgiven.json") or {}).get(
            "up_to_attempt", 0
        )
        found = (self.failure(key, n) for n in self.attempts(key) if n > forgiven)
        return [f for f in found if f is not None and f.kind in ATTEMPT_LIMITS]

    def has_failed(self, key: str, max_attempts: int | None) -> bool:
        """Return whether a trial failed as often as it may; None: each kind's own limit."""
        kinds = [failure.kind for failure in self.failures(key)]
        return any(
            kinds.count(kind) >= (max_attempts or limit) for kind, limit in ATTEMPT_LIMITS.items()
        )

    def has_advanced(self, key: str, attempt: int) -> bool:
        """Return whether an attempt saved a checkpoint, or answers, beyond those before it."""
        if has_answered(self.attempt_folder(key, attempt)):
            return True
        earlier = (n for n in self.attempts(key) if n < attempt)
        before = max((checkpointed_steps(self.attempt_folder(key, n)) for n in earlier), default=0)
        return checkpointed_steps(self.attempt_folder(key, attempt)) > before

    def forgive_failures(self, key: str) -> None:
        """Let the failures so far count no more, as `run --retry failed` asks."""
        path = self.trial_folder(key) / "forgiven.json"
        write_whole(path, json.dumps({"up_to_attempt": self.newest_attempt(key)}) + "\n")

    def prune(self, key: str, step: int) -> None:
        """Let a trial stop at its next step: its course up to `step` promises too little."""
        link_whole(self.pruned_path(key), json.dumps({"step": step}) + "\n")

    def revive(self, key: str) -> None:
        """Let a trial count as pruned no more, so that it runs to its end."""
        self.pruned_path(key).unlink(missing_ok=True)

    def is_pruned(self, key: str) -> bool:
        """Return whether a trial was pruned."""
        return self.pruned_path(key).exists()

    def pruned_path(self, key: str) -> Path:
        """Return the file whose existence prunes a trial."""
        return self.trial_folder(key) / "pruned.json"

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
        if self.is_live(key, attempt):
            owner = self.owner(key, attempt)
            return TrialStatus("running", attempt, self.progress(key, attempt), owner)
        if self.is_pruned(key):
            return TrialStatus("pruned", attempt)
        if self.has_failed(key, max_attempts):
            return TrialStatus("failed", attempt, failure=self.failures(key)[-1])
        return TrialStatus("waiting", attempt)

    def progress(self, key: str, attempt: int) -> Json:
        """Return the last whole line of an attempt's metrics.jsonl; None where there is none."""
        try:
            with (self.attempt_folder(key, attempt) / METRICS_FILE).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_LINES_BYTES))
                tail = file.read().decode(errors="replace")
        except FileNotFoundError:
            return None
        lines = _objects(tail)
        return lines[-1] if lines and lines[-1] else None

    def metrics(self, key: str, attempt: int, *, skip: int = 0) -> list[dict[str, Json]]:
        """Return the whole lines of an attempt's metrics.jsonl after the first `skip`.

        A line that cannot be read, as a crash of the machine may leave one, is an empty object.
        """
        try:
            text = (self.attempt_folder(key, attempt) / METRICS_FILE).read_text(errors="replace")
        except FileNotFoundError:
            return []
        return _objects(text)[skip:]


def _objects(text: str) -> list[dict[str, Json]]:
    """Return the objects that the whole lines of `text` hold, {} for one that cannot be read."""
    return [_object(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _object(line: str) -> dict[str, Json]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
