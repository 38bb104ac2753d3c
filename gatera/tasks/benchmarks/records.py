"""Files of records: JSON arrays, JSON lines, tab-separated lines, each with fields that are texts.

What a record means is the benchmarks' to say. A malformed one is refused with the file and its
number, which counts from 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatera.errors import InputError

TextRecord = dict[str, str]


def json_array(path: Path, fields: Sequence[str], filled: Sequence[str]) -> list[TextRecord]:
    """Read a JSON array of records.

    Args:
        path: The file, in UTF-8.
        fields: What each record needs; of other fields nothing is read.
        filled: Those of them that may not be empty.

    Raises:
        InputError: not JSON, not an array, or a malformed record.
    """
    try:
        records = json.loads(path.read_bytes().decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a JSON file in UTF-8: {error}.") from error
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{path} holds {_kind(records)}; expected a non-empty JSON array of records with the "
            f"fields {', '.join(fields)}."
        )
    return _text_records(records, path, "record", fields, filled)


def json_lines(path: Path, fields: Sequence[str], filled: Sequence[str]) -> list[TextRecord]:
    """Read a file with one JSON object a line; the arguments are those of `json_array`.

    Raises:
        InputError: a line is no JSON, or a malformed record.
    """
    records = []
    for number, line in enumerate(lines(path), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not a JSON object: {error}.") from error
    return _text_records(records, path, "line", fields, filled)


def tab_separated(path: Path, fields: Sequence[str]) -> list[TextRecord]:
    """Read a file with one record a line, its fields between tabs, without header and quotes.

    Raises:
        InputError: a line has more or fewer fields, or an empty one.
    """
    records = []
    for number, line in enumerate(lines(path), start=1):
        values = [value.strip() for value in line.split("\t")]
        if len(values) != len(fields):
            raise InputError(
                f"{path}, line {number}: found {len(values)} fields between tabs; expected "
                f"{len(fields)}: {', '.join(fields)}."
            )
        records.append(dict(zip(fields, values, strict=True)))
    return _text_records(records, path, "line", fields, fields)


def lines(path: Path) -> list[str]:
    """Return the lines of a file, without what ends them.

    A line ends with LF or CRLF alone: other characters that Unicode knows as line ends stand within
    texts.

    Raises:
        InputError: not in UTF-8, or empty.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8: {error}.") from error
    if not text.strip():
        raise InputError(f"{path} is empty; expected one record a line.")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _text_records(
    records: Iterable[Any], path: Path, unit: str, fields: Sequence[str], filled: Sequence[str]
) -> list[TextRecord]:
    return [
        _text_record(record, f"{path}, {unit} {number}", fields, filled)
        for number, record in enumerate(records, start=1)
    ]


def _text_record(
    record: Any, where: str, fields: Sequence[str], filled: Sequence[str]
) -> TextRecord:
    if not isinstance(record, Mapping):
        raise InputError(
            f"{where}: expected an object with the fields {', '.join(fields)}, found "
            f"{_kind(record)}."
        )
    for name in fields:
        if name not in record:
            raise InputError(
                f"{where}: the field {name!r} is missing; each record needs {', '.join(fields)}."
            )
        if not isinstance(record[name], str):
            raise InputError(
                f"{where}: the field {name!r} must be text, found {_kind(record[name])}."
            )
    for name in filled:
        if not record[name].strip():
            raise InputError(f"{where}: the field {name!r} is empty.")
    return {name: record[name] for name in fields}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "a truth value"}
    if value is None:
        return "null"
    if value == []:
        return "an empty array"
    return names.get(type(value), "a number")
