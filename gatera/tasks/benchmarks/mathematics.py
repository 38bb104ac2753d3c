"""Grade-school mathematics: GSM8K, and MetaMathQA to train on. Scored by the final number.

Files are `gsm8k/{train,test}.jsonl` and `metamath/MetaMathQA-395K.json` under a data root. The
other files of MetaMath are made from GSM8K's test questions, and nothing here reads them.

A MetaMathQA item knows the question that it was made of, so that none trains whose question is
tested. Calculator marks of GSM8K's solutions (`<<48/2=24>>`) are left out: no calculator answers
them here, and MetaMathQA has none.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gatera.errors import InputError
from gatera.tasks.benchmarks.files import Files
from gatera.tasks.benchmarks.final_number import final_answer, final_number
from gatera.tasks.benchmarks.hub import HubSource, Record
from gatera.tasks.benchmarks.records import json_array, json_lines
from gatera.tasks.example import Example
from gatera.tasks.task import Task

# The longest solution of GSM8K's test set has 951 characters, 99 in 100 have fewer than 670: with
# three to four characters a token, that fits.
MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Benchmark:
    """What tells one benchmark from the others."""

    title: str
    paths: Mapping[str, str]  # split -> file below a data root
    read: Callable[[Path], list[Example]]
    form: str  # of the files, for messages
    source: HubSource
    extract: Callable[[str], str | None]

    def task(self, name: str) -> Task:
        """Return the benchmark as a task."""
        data = Files(name, self.paths, self.read, self.form, self.source)
        return Task(self.title, data, self.extract, max_new_tokens=MAX_NEW_TOKENS)


_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


def _gsm8k(record: Record) -> Example:
    """Return an item; its `answer` is "" where the solution has no final number."""
    solution = _CALCULATOR_MARK.sub("", record["answer"])
    return Example(
        instruction=record["question"],
        input="",
        output=solution,
        answer=final_number(solution) or "",
    )


def _read_gsm8k(path: Path) -> list[Example]:
    fields = ("question", "answer")
    examples = [_gsm8k(record) for record in json_lines(path, fields, filled=fields)]
    for number, example in enumerate(examples, start=1):
        if not example.answer:
            raise InputError(
                f"{path}, line {number}: the solution ends in no number; expected a last line "
                '"#### N".'
            )
    return examples


def _metamath(record: Record) -> Example:
    """Return an item; its `answer` is "" where the solution does not say what its answer is."""
    return Example(
        instruction=record["query"],
        input="",
        output=record["response"],
        answer=final_answer(record["response"]) or "",
        made_of=(sys.intern(record["original_question"]),),  # which some twenty-five items share
    )


def _read_metamath(path: Path) -> list[Example]:
    fields = ("query", "original_question", "response")
    return [_metamath(record) for record in json_array(path, fields, filled=fields)]


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        title="GSM8K, final numbers",
        paths={"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
        read=_read_gsm8k,
        form="GSM8K's JSON lines, with question and answer",
        source=HubSource("openai/gsm8k", "main", {"train": "train", "test": "test"}, _gsm8k),
        extract=final_number,
    ),
    "metamath": Benchmark(
        title="MetaMathQA, training alone",
        paths={"train": "metamath/MetaMathQA-395K.json"},
        read=_read_metamath,
        form="MetaMathQA's JSON array, with query, original_question and response",
        source=HubSource("meta-math/MetaMathQA", None, {"train": "train"}, _metamath),
        extract=final_answer,
    ),
}

TASKS: Mapping[str, Task] = {name: each.task(name) for name, each in BENCHMARKS.items()}
