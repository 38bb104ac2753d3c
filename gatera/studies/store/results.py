"""Results as files: each holds its own hash, so that damage is noticed wherever it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gatera.studies.store.index import Index
from gatera.studies.store.whole_files import Signature, signature
from gatera.training.attempt_files import PREDICTIONS_FILE, sha256_or_none
from gatera.trial import TrialResult, sha256_of


@dataclass(frozen=True)
class CheckedResult:
    """What a result file holds, and what is wrong with it."""

    is_whole: bool = False  # whether there is a result, and nothing wrong with it
    result: TrialResult | None = None  # of a whole one, where it had to be read to know that
    damage: str | None = None  # what is wrong, where there is one that is not
    # Path and signature of the file and of its predictions.
    files: tuple[tuple[str, Signature | None], ...] = ()
    sha256: str | None = None  # of the file's bytes


class ResultReader:
    """Reads results and compares the hashes of them and their predictions, once a change."""

    def __init__(self, trials: Path, index: Index, *, verifies: bool) -> None:
        """Look for results by key.

        Args:
            trials: The folder of all trials.
            index: What was read of results before.
            verifies: Whether the bytes of files that look as they did then are compared too.
        """
        self._trials = str(trials)
        self._index, self._verifies = index, verifies
        self._seen: dict[str, CheckedResult] = {}  # by key

    # Paths are text here: thousands are looked at to count a study's trials.

    def result_path(self, key: str) -> str:
        """Return where the result of a trial is, once it has one."""
        return f"{self._trials}/{key}/result.json"

    def predictions_path(self, key: str, attempt: int) -> str:
        """Return where an attempt keeps its predictions."""
        return f"{self._trials}/{key}/attempts/{attempt}/{PREDICTIONS_FILE}"

    def result(self, key: str) -> TrialResult | None:
        """Return the result of the trial with `key`; None where there is none that is whole."""
        checked = self.read(key)
        if checked.is_whole and checked.result is None:
            contents = self._index.contents(key)
            path = self.result_path(key)
            if contents is not None:
                checked = dataclasses.replace(checked, result=contents.result)
            elif (found := signature(path)) is not None:  # the index is damaged there
                checked = self._read(key, path, found)
            self._seen[key] = checked
        return checked.result

    def read(self, key: str) -> CheckedResult:
        """Return what is known of the result file of the trial with `key`."""
        seen = self._seen.get(key)
        if seen is None or any(signature(path) != then for path, then in seen.files):
            seen = self._check(key, self.result_path(key))
            if seen.files:
                self._seen[key] = seen
            else:
                self._seen.pop(key, None)
        return seen

    def _check(self, key: str, path: str) -> CheckedResult:
        found = signature(path)
        if found is None:
            return CheckedResult()
        indexed = self._indexed(key, path, found)
        return self._read(key, path, found) if indexed is None else indexed

    def _indexed(self, key: str, path: str, found: Signature) -> CheckedResult | None:
        """Return what the index says of a result; None where its files are not as they were."""
        entry = self._index.entry(key)
        if entry is None or entry.marks is None or entry.marks.result != found:
            return None
        predictions = self.predictions_path(key, entry.attempt)
        there = signature(predictions)
        if there is None or there != entry.marks.predictions:
            return None
        if self._verifies and (
            sha256_or_none(Path(path)) != entry.sha256
            or sha256_or_none(Path(predictions)) != entry.predictions_sha256
        ):
            return None
        files = ((path, found), (predictions, there))
        return CheckedResult(is_whole=True, files=files, sha256=entry.sha256)

    def _read(self, key: str, path: str, found: Signature) -> CheckedResult:
        """Read a result and compare its hashes."""
        try:
            text = Path(path).read_bytes()
            fields = json.loads(text)
            digest = fields.pop("sha256")
            result = TrialResult.from_json(fields)
        except FileNotFoundError:
            return CheckedResult()
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return CheckedResult(damage=f"{path} cannot be read", files=((path, found),))
        predictions = self.predictions_path(key, result.attempt)
        files = ((path, found), (predictions, signature(predictions)))
        damage = None
        if digest != result_sha256(result) or result.key != key:
            damage = f"{path} was changed"
        elif files[1][1] is None:
            damage = f"{predictions} is missing"
        elif sha256_or_none(Path(predictions)) != result.predictions_sha256:
            damage = f"{predictions} was changed"
        sha256 = hashlib.sha256(text).hexdigest()
        return CheckedResult(not damage, None if damage else result, damage, files, sha256)


def result_text(result: TrialResult) -> str:
    """Return what a result file says.

    Raises:
        ValueError: a number in it is not finite.
    """
    fields = result.to_json() | {"sha256": result_sha256(result)}
    return json.dumps(fields, indent=1, sort_keys=True, allow_nan=False) + "\n"


def agree(one: TrialResult, other: TrialResult) -> bool:
    """Return whether two results of a trial are equal, as far as they have to be.

    What was computed in other parts, as where memory ran out, has other last bits.
    """
    return result_sha256(one) == result_sha256(other) or _parts(one) != _parts(other)


def _parts(result: TrialResult) -> list[object]:
    """Return in how many parts a step was computed, and how many items were answered at once."""
    training, scoring = (result.parts.get(name, {}) for name in ("training", "scoring"))
    return [training.get("accumulation"), scoring.get("batch_size")]


def result_sha256(result: TrialResult) -> str:
    """Return the hash of what is determined in a result: equal for equal runs, at any attempt."""
    fields = result.to_json()
    del fields["measured"], fields["attempt"]
    return sha256_of(fields)
