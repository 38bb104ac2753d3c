"""Files of items in the LLM-Adapters format (arXiv:2304.01933): JSON arrays of records.

A record has the text fields instruction, input, output and answer. Where the last line of the
instruction reads `Answer format: a/b/c`, these are an item's options.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatera.errors import InputError
from gatera.tasks.example import Example

FIELDS = ("instruction", "input", "output", "answer")
FORM = "a JSON array in the LLM-Adapters format"

_ANSWER_FORMAT = "Answer format:"


def with_options(example: Example) -> Example:
    """Return an item with the texts that could be produced, where it says which answers there are.

    Each is the item's output with another answer at its end; none where the item does not name its
    own answer among them, or where its output ends otherwise.
    """
    last = example.instruction.rstrip().rpartition("\n")[2].strip()
    if not last.startswith(_ANSWER_FORMAT) or not example.output.endswith(example.answer):
        return example
    answers = [each.strip() for each in last.removeprefix(_ANSWER_FORMAT).split("/")]
    if example.answer not in answers or len(set(answers)) < max(2, len(answers)):
        return example
    lead = example.output.removesuffix(example.answer)
    return dataclasses.replace(example, options=tuple(lead + answer for answer in answers))


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
    return with_options(Example(**{name: record[name] for name in FIELDS}))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "a truth value"}
    if value is None:
        return "null"
    if value == []:
        return "an empty array"
    return names.get(type(value), "a number")
