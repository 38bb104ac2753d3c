"""Files of items in the LLM-Adapters format (arXiv:2304.01933): JSON arrays of records.

A record has the text fields instruction, input, output and answer. Where the last line of the
instruction reads `Answer format: a/b/c`, these are an item's options.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gatera.tasks.benchmarks.records import json_array
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
    records = json_array(path, FIELDS, filled=("instruction", "output", "answer"))
    return [
        with_options(Example(each["instruction"], each["input"], each["output"], each["answer"]))
        for each in records
    ]
