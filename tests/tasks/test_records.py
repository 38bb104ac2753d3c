"""Files of records, and how a malformed one is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatera.errors import InputError
from gatera.tasks.benchmarks import records


def put(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def test_lines_end_with_lf_or_crlf_alone(tmp_path: Path) -> None:
    path = put(tmp_path, "a\u2028b\x85c\rd\r\n\u00e9\x0c\n".encode())
    assert records.lines(path) == ["a\u2028b\x85c\rd", "\u00e9\x0c"]
    assert records.lines(put(tmp_path, b"a\nb")) == ["a", "b"]


def test_quotes_between_tabs_are_part_of_the_text(tmp_path: Path) -> None:
    path = put(tmp_path, b'"a\tb"\n c \t"d""\n')
    found = records.tab_separated(path, ("one", "two"))
    assert found == [{"one": '"a', "two": 'b"'}, {"one": "c", "two": '"d""'}]


def test_json_lines_hold_the_fields_that_are_asked_for(tmp_path: Path) -> None:
    path = put(tmp_path, b'{"q": "x", "more": 1, "a": ""}\n{"a": "z", "q": "y"}\n')
    found = records.json_lines(path, ("q", "a"), filled=("q",))
    assert found == [{"q": "x", "a": ""}, {"q": "y", "a": "z"}]


def tabs(path: Path) -> Any:
    return records.tab_separated(path, ("one", "two"))


def jsonl(path: Path) -> Any:
    return records.json_lines(path, ("q", "a"), filled=("q",))


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (tabs, b"", "is empty; expected one record a line"),
        (tabs, b" \n\n", "is empty; expected one record a line"),
        (tabs, b"a\tb\n\xff\t", "is not a text file in UTF-8"),
        (tabs, b"a\tb\nc\n", "line 2: found 1 fields between tabs; expected 2: one, two"),
        (tabs, b"a\tb\tc\n", "line 1: found 3 fields between tabs; expected 2"),
        (tabs, b"a\tb\n\nc\td\n", "line 2: found 1 fields"),
        (tabs, b"a\tb\nc\t \n", "line 2: the field 'two' is empty"),
        (jsonl, b'{"q": "x", "a": "y"}\n{"q"\n', "line 2: not a JSON object"),
        (jsonl, b'{"q": "x", "a": "y"}\n[]\n', "line 2: expected an object .* found an empty arr"),
        (jsonl, b'{"q": "x"}\n', "line 1: the field 'a' is missing; each record needs q, a"),
        (jsonl, b'{"q": "x", "a": 3}\n', "line 1: the field 'a' must be text, found a number"),
        (jsonl, b'{"q": "", "a": ""}\n', "line 1: the field 'q' is empty"),
    ],
)
def test_malformed_records_are_told_with_their_line(
    read: Callable[[Path], Any], content: bytes, message: str, tmp_path: Path
) -> None:
    path = put(tmp_path, content)
    with pytest.raises(InputError, match=message) as refused:
        read(path)
    assert str(path) in str(refused.value)
