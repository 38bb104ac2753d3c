"""What was read of finished trials, in one file: thousands of results need not be opened again.

    index.jsonl     a line that says what made it and what trials share, then a line a trial

A copy: nothing is lost with it. A line counts as long as the files that it was read from have the
sizes and times that they had then; who writes a table compares their bytes too (`ResultReader`).
Each line begins with its own hash, so that damage to it is noticed. The supervisor writes it.
"""

from __future__ import annotations

import array
import base64
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatera.studies.store.whole_files import Signature, write_whole
from gatera.trial import Json, TrialResult, canonical_json

Items = Mapping[str, Mapping[int, float]]  # task -> item -> a value of its answer
Points = tuple[tuple[int, float], ...]  # (optimizer step, value)

_SHARED = "shared"  # {"shared": n}: what the first line holds at place n
_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Marks:
    """What changes when a finished trial's files do."""

    folder: Signature | None  # of the trial: a new claim changes it
    result: Signature | None
    predictions: Signature | None


@dataclass(frozen=True)
class Entry:
    """What was read of one finished trial."""

    marks: Marks | None  # None: its files may still change, and the index does not keep it
    sha256: str  # of the bytes of result.json
    result: TrialResult
    is_current: bool  # whether today's code would give it: this index is read by that alone
    newest: int  # the newest claim; each attempt's record was there
    seconds: float  # of its own attempts together
    trained_seconds: float  # of the training of its weights, where another trial trained them
    details: Mapping[str, Json]  # as `details_of` packs them; whoever only counts needs none

    @property
    def scores(self) -> Items:
        """What each answer is worth, by the task's metric."""
        return _unpacked_items(self.details["scores"])

    @property
    def log_probabilities(self) -> Items:
        """The log-probability of the right option against the others, of items that have some."""
        return _unpacked_items(self.details["log_probabilities"])

    def curve(self, name: str) -> Points:
        """Return the course of a value that was logged: "train/loss", "val/accuracy", ..."""
        return _points(self.details["curves"].get(name, ()))


def details_of(
    scores: Items, log_probabilities: Items, curves: Mapping[str, Points]
) -> dict[str, Json]:
    """Return what a table reads of a trial beside its result, packed for a line of the index.

    Args:
        scores: What each answer is worth.
        log_probabilities: Of the right options.
        curves: The course of "train/loss", "val/accuracy" and "knowledge/loss".
    """
    return {
        "scores": {task: _packed_items(found) for task, found in scores.items()},
        "log_probabilities": {t: _packed_items(found) for t, found in log_probabilities.items()},
        "curves": dict(curves),
    }


class Index:
    """The index of one store."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self._path = path
        self._entries: dict[str, Entry] = {}  # by key, of the lines that were asked for
        self._noted: dict[str, Entry] = {}  # by key, not written yet

    @property
    def is_there(self) -> bool:
        """Whether there is one that this gatera wrote."""
        return bool(self._lines)

    def entry(self, key: str) -> Entry | None:
        """Return what was read of the trial with `key`; None where the index does not say."""
        if key not in self._entries and (line := self._lines.get(key)) is not None:
            self._entries[key] = _entry(json.loads(line), self._shared)
        return self._entries.get(key)

    def note(self, key: str, entry: Entry) -> None:
        """Let `save` write what was read of the trial with `key`."""
        if entry.marks is not None:
            self._entries[key] = self._noted[key] = entry

    def save(self) -> None:
        """Write the index, where something was noted."""
        if not self._noted:
            return
        entries = {key: each for key in self._lines if (each := self.entry(key)) is not None}
        entries |= self._noted
        shared: dict[str, int] = {}
        lines = [f"{key} {json.dumps(_packed(e, shared))}" for key, e in sorted(entries.items())]
        values = [json.loads(text) for text in shared]
        first = json.dumps({"source": source_sha256(), _SHARED: values})
        write_whole(self._path, "".join(f"{_sha256(each)} {each}\n" for each in (first, *lines)))
        self.__dict__.pop("_content", None)
        self._noted.clear()

    @property
    def _lines(self) -> dict[str, str]:
        return self._content[1]

    @property
    def _shared(self) -> list[Json]:
        return self._content[0]

    @functools.cached_property
    def _content(self) -> tuple[list[Json], dict[str, str]]:
        """What trials share, and the text of each line that is whole, by key."""
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except OSError:
            return [], {}
        whole = [text for line in lines if (text := _checked(line)) is not None]
        if not whole or whole[0] != _checked(lines[0]):
            return [], {}
        first = json.loads(whole[0])
        if not isinstance(first, dict) or first.get("source") != source_sha256():
            return [], {}
        pairs = (text.partition(" ") for text in whole[1:])
        return first[_SHARED], {key: text for key, _, text in pairs}


@functools.cache
def source_sha256() -> str:
    """Return the hash of this package's source: what another gatera wrote is not taken for ours."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(line: str) -> str | None:
    """Return what a line says; None where it is not what was written."""
    digest, _, text = line.partition(" ")
    return text if digest == _sha256(text) else None


# A line's form


def _packed(entry: Entry, shared: dict[str, int]) -> Json:
    """Return an entry as JSON values; add to `shared` what other trials may say too."""

    def place(value: Json) -> Json:
        return {_SHARED: shared.setdefault(canonical_json(value), len(shared))}

    result: dict[str, Any] = {
        field.name: getattr(entry.result, field.name) for field in dataclasses.fields(TrialResult)
    }
    result["config"] = place(result["config"])
    result["provenance"] = {
        part: said and {name: place(v) if isinstance(v, Mapping) else v for name, v in said.items()}
        for part, said in result["provenance"].items()
    }
    return {
        "marks": entry.marks and dataclasses.astuple(entry.marks),
        "sha256": entry.sha256,
        "result": result,
        "is_current": entry.is_current,
        "newest": entry.newest,
        "seconds": [entry.seconds, entry.trained_seconds],
        "details": entry.details,
    }


def _entry(value: Json, shared: list[Json]) -> Entry:
    result = value["result"]

    def placed(said: Json) -> Json:
        found = isinstance(said, dict) and said.keys() == {_SHARED}
        return shared[said[_SHARED]] if found else said

    result["config"] = placed(result["config"])
    result["provenance"] = {
        part: said and {name: placed(each) for name, each in said.items()}
        for part, said in result["provenance"].items()
    }
    seconds, trained_seconds = value["seconds"]
    return Entry(
        Marks(*(None if each is None else tuple(each) for each in value["marks"])),
        value["sha256"],
        TrialResult.from_json(result),
        value["is_current"],
        value["newest"],
        seconds,
        trained_seconds,
        value["details"],
    )


def _packed_items(values: Mapping[int, float]) -> tuple[list[int] | None, str, str]:
    """Return the items (None: 0, 1, 2, ...), how their values are packed, and these.

    Right and wrong are a digit each; other values have single precision, which is enough to judge.
    """
    items = list(values)
    places = None if items == list(range(len(items))) else items
    if all(value in (0.0, 1.0) for value in values.values()):
        return places, "digits", "".join(str(int(value)) for value in values.values())
    packed = array.array("f", values.values())
    if sys.byteorder == "big":
        packed.byteswap()
    return places, "float32", base64.b64encode(packed.tobytes()).decode()


def _unpacked_items(packed: Mapping[str, tuple[list[int] | None, str, str]]) -> Items:
    return {task: _unpacked(*found) for task, found in packed.items()}


def _unpacked(places: list[int] | None, form: str, text: str) -> dict[int, float]:
    if form == "digits":
        values = [float(digit) for digit in text]
    else:
        numbers = array.array("f", base64.b64decode(text))
        if sys.byteorder == "big":
            numbers.byteswap()
        values = numbers.tolist()
    return dict(zip(range(len(values)) if places is None else places, values, strict=True))


def _points(value: Iterable[tuple[int, float]]) -> Points:
    return tuple((step, number) for step, number in value)
