"""The eight commonsense benchmarks and their joint training set, in the LLM-Adapters format.

Files are JSON arrays of records with the text fields instruction, input, output and answer, as
`commonsense/<folder>/{train,test}.json` and `commonsense/commonsense_170k.json` under a data
root. There is no validation file: each training file holds out its `HELD_OUT` first records in
the order of their hash (arXiv:2304.01933 draws 120 of the 170,420 at random).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatera.errors import InputError
from gatera.tasks.example import Example, content_hash

HELD_OUT = 120  # records of each training file that form its validation split

FIELDS = ("instruction", "input", "output", "answer")

JOINT_TRAINING_SET = "commonsense_170k"
JOINT_TRAINING_SET_HUB_ID = "zwhe99/commonsense_170k"


@dataclass(frozen=True)
class Benchmark:
    """What is known about one benchmark without reading it."""

    folder: str  # below commonsense/ in a data root
    keywords: tuple[str, ...]  # what counts as an answer
    chance: float  # accuracy of guessing among the choices that items usually have
    hub_id: str  # where the original data set is published


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{number}" for number in range(1, count + 1))


BENCHMARKS: dict[str, Benchmark] = {
    "boolq": Benchmark("boolq", ("true", "false"), 1 / 2, "google/boolq"),
    "piqa": Benchmark("piqa", _numbered("solution", 2), 1 / 2, "ybisk/piqa"),
    "siqa": Benchmark("social_i_qa", _numbered("answer", 5), 1 / 3, "allenai/social_i_qa"),
    "hellaswag": Benchmark("hellaswag", _numbered("ending", 4), 1 / 4, "Rowan/hellaswag"),
    "winogrande": Benchmark("winogrande", _numbered("option", 2), 1 / 2, "allenai/winogrande"),
    "arc_easy": Benchmark("ARC-Easy", _numbered("answer", 5), 1 / 4, "allenai/ai2_arc"),
    "arc_challenge": Benchmark("ARC-Challenge", _numbered("answer", 5), 1 / 4, "allenai/ai2_arc"),
    "openbookqa": Benchmark("openbookqa", _numbered("answer", 5), 1 / 4, "allenai/openbookqa"),
}


def path_of(task: str, split: str, root: Path) -> Path:
    """Return the file that holds a split under a data root, whether it exists or not."""
    if task == JOINT_TRAINING_SET:
        return root / "commonsense" / f"{JOINT_TRAINING_SET}.json"
    name = "test.json" if split == "test" else "train.json"
    return root / "commonsense" / BENCHMARKS[task].folder / name


def load(task: str, split: str, root: Path) -> list[Example]:
    """Read a split from a data root.

    Args:
        task: A key of `BENCHMARKS`, or `JOINT_TRAINING_SET`.
        split: train, validation or test.
        root: The data root.

    Raises:
        InputError: the file is missing, or a record in it is malformed.
    """
    examples = read_file(existing_path(task, split, root))
    return examples if split == "test" else select_split(examples, split)


def existing_path(task: str, split: str, root: Path) -> Path:
    """Return the file that holds a split under a data root.

    Raises:
        InputError: there is no such file.
    """
    path = path_of(task, split, root)
    if not path.is_file():
        raise InputError(
            f"task {task}: its {split} split was looked for at {path}, which does not exist; put "
            "the file there (a JSON array in the LLM-Adapters format) or give another data root."
        )
    return path


def fingerprint(task: str, split: str, root: Path) -> str:
    """Return the SHA-256 of the file that `load` reads, in hex.

    Raises:
        InputError: the file is missing.
    """
    return hashlib.sha256(existing_path(task, split, root).read_bytes()).hexdigest()


def select_split(examples: list[Example], split: str) -> list[Example]:
    """Return the training or the validation part of a training file's records.

    Records that ask one question stay together, in the training part only if none is held out.
    """
    hashes = [content_hash(example) for example in examples]
    held_out = set(sorted(set(hashes))[:HELD_OUT])
    wanted = split == "validation"
    return [
        example
        for example, digest in zip(examples, hashes, strict=True)
        if (digest in held_out) is wanted
    ]


def read_file(path: Path) -> list[Example]:
    """Read a JSON array of records.

    Raises:
        InputError: not JSON, not an array, or a malformed record (named by its number from 1).
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a JSON file in UTF-8: {error}.") from error
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{path} holds {_kind(records)}; expected a non-empty JSON array of records with the "
            f"fields {', '.join(FIELDS)}."
        )
    return [_example(record, number, path) for number, record in enumerate(records, start=1)]


def _example(record: Any, number: int, path: Path) -> Example:
    if not isinstance(record, Mapping):
        raise InputError(
            f"{path}, record {number}: expected an object with the fields {', '.join(FIELDS)}, "
            f"found {_kind(record)}."
        )
    for name in FIELDS:
        if name not in record:
            raise InputError(
                f"{path}, record {number}: the field {name!r} is missing; each record needs "
                f"{', '.join(FIELDS)}."
            )
        if not isinstance(record[name], str):
            raise InputError(
                f"{path}, record {number}: the field {name!r} must be text, found "
                f"{_kind(record[name])}."
            )
    for name in ("instruction", "output", "answer"):
        if not record[name].strip():
            raise InputError(f"{path}, record {number}: the field {name!r} is empty.")
    return Example(**{name: record[name] for name in FIELDS})


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "a truth value"}
    if value is None:
        return "null"
    if value == []:
        return "an empty array"
    return names.get(type(value), "a number")
