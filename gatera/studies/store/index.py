"""What was read of finished trials, in two files: thousands of results need not be opened again.

    index.jsonl            a line that says what made it, then a line a trial: enough to count them
    index.contents.jsonl   a line of what trials share, then a line a trial: what a table reads

A copy: nothing is lost with it. A line counts as long as the files that it was read from have the
sizes and times that they had then; who writes a table compares their bytes too (`ResultReader`).
Each line begins with its own hash, so that damage to it is noticed, and the first file has the
hashes of the second's. The supervisor writes them.
"""

from __future__ import annotations

import array
import base64
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    """What has to be known of a finished trial to count it."""

    marks: Marks | None  # None: its files may still change, and the index does not keep it
    sha256: str  # of the bytes of result.json
    predictions_sha256: str
    attempt: int  # that gave the result
    newest: int  # the newest claim; each attempt's record was there
    is_current: bool  # whether today's code would give it: this index is read by that alone
    is_frozen: bool
    seconds: float  # of its own attempts together
    trained_seconds: float  # of the training of its weights, where another trial trained them
    scoring_seconds: float


@dataclass(frozen=True)
class Contents:
    """What a table reads of a finished trial."""

    result: TrialResult
    details: Mapping[str, Json]  # as `details_of` packs them

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
        self._path, self._contents_path = path, path.with_suffix(f".contents{path.suffix}")
        self._entries: dict[str, Entry] = {}  # by key, of the lines that were asked for
        self._contents: dict[str, Contents] = {}
        self._noted = False  # whether there is something that was not written yet

    @property
    def is_there(self) -> bool:
        """Whether there is one that this gatera wrote."""
        return bool(self._lines)

    def entry(self, key: str) -> Entry | None:
        """Return what counts a trial; None where the index does not say."""
        if key not in self._entries and (line := self._lines.get(key)) is not None:
            self._entries[key] = _entry(json.loads(line)["entry"])
        return self._entries.get(key)

    def contents(self, key: str) -> Contents | None:
        """Return what a table reads of a trial; None where the index does not say."""
        if key not in self._contents and (line := self._lines.get(key)) is not None:
            shared, texts = self._texts
            if (text := texts.get(json.loads(line)["contents"])) is not None:
                self._contents[key] = _contents(json.loads(text), shared)
        return self._contents.get(key)

    def note(self, key: str, entry: Entry, contents: Contents) -> None:
        """Let `save` write what was read of the trial with `key`."""
        if entry.marks is not None:
            self._entries[key], self._contents[key] = entry, contents
            self._noted = True

    def save(self) -> None:
        """Write the index, where something was noted."""
        if not self._noted:
            return
        shared: dict[str, int] = {}
        entries, texts = [], []
        for key in sorted(self._lines.keys() | self._entries.keys()):
            entry, contents = self.entry(key), self.contents(key)
            if entry is not None and contents is not None:
                text = json.dumps(_packed(contents, shared))
                line = {"entry": dataclasses.astuple(entry), "contents": _sha256(text)}
                entries.append(f"{key} {json.dumps(line)}")
                texts.append(text)
        first = json.dumps({_SHARED: [json.loads(text) for text in shared]})
        made_by = json.dumps({"source": source_sha256(), _SHARED: _sha256(first)})
        # What the entries speak of comes first: they name it by its hash, so that a process that
        # dies in between leaves none that is taken for another.
        _write_lines(self._contents_path, (first, *texts))
        _write_lines(self._path, (made_by, *entries))
        for name in ("_head", "_texts"):
            self.__dict__.pop(name, None)
        self._noted = False

    @property
    def _lines(self) -> dict[str, str]:
        """The text of each entry that is whole, by key."""
        return self._head[1]

    @functools.cached_property
    def _head(self) -> tuple[str, dict[str, str]]:
        """The hash of what trials share, and the text of each entry that is whole, by key."""
        first, lines = _read_lines(self._path)
        if not isinstance(first, dict) or first.get("source") != source_sha256():
            return "", {}
        pairs = (text.partition(" ") for text in lines.values())
        return first[_SHARED], {key: text for key, _, text in pairs}

    @functools.cached_property
    def _texts(self) -> tuple[list[Json], dict[str, str]]:
        """What trials share, and the text of each trial's contents that is whole, by its hash."""
        first, lines = _read_lines(self._contents_path)
        if first is None or _sha256(json.dumps(first)) != self._head[0]:
            return [], {}
        return first[_SHARED], lines


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_whole(path, "".join(f"{_sha256(each)} {each}\n" for each in lines))


def _read_lines(path: Path) -> tuple[Json, dict[str, str]]:
    """Return the value of the first line, None where it is not whole, and hash -> text of others.

    A line that is not what was written is left out.
    """
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return None, {}
    pairs = [(digest, text) for digest, _, text in (line.partition(" ") for line in lines)]
    if _sha256(pairs[0][1]) != pairs[0][0]:
        return None, {}
    whole = {digest: text for digest, text in pairs[1:] if digest == _sha256(text)}
    return json.loads(pairs[0][1]), whole


_SOURCE = (".py", ".html", ".css", ".js")  # code, and what pages are made of


@functools.cache
def source_sha256() -> str:
    """Return the hash of this package's source: what another gatera wrote is not taken for ours."""
    digest = hashlib.sha256()
    files = (path for path in _PACKAGE.rglob("*.*") if path.suffix in _SOURCE)
    for path in sorted(files):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# A line's form


def _entry(fields: Sequence[Json]) -> Entry:
    marks = Marks(*(None if each is None else tuple(each) for each in fields[0]))
    return Entry(marks, *fields[1:])


def _packed(contents: Contents, shared: dict[str, int]) -> Json:
    """Return contents as JSON values; add to `shared` what other trials may say too."""

    def place(value: Json) -> Json:
        return {_SHARED: shared.setdefault(canonical_json(value), len(shared))}

    result: dict[str, Any] = {
        field.name: getattr(contents.result, field.name)
        for field in dataclasses.fields(TrialResult)
    }
    result["config"] = place(result["config"])
    result["provenance"] = {
        part: said and {name: place(v) if isinstance(v, Mapping) else v for name, v in said.items()}
        for part, said in result["provenance"].items()
    }
    return {"result": result, "details": contents.details}


def _contents(value: Json, shared: list[Json]) -> Contents:
    result = value["result"]

    def placed(said: Json) -> Json:
        found = isinstance(said, dict) and said.keys() == {_SHARED}
        return shared[said[_SHARED]] if found else said

    result["config"] = placed(result["config"])
    result["provenance"] = {
        part: said and {name: placed(each) for name, each in said.items()}
        for part, said in result["provenance"].items()
    }
    return Contents(TrialResult.from_json(result), value["details"])


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
