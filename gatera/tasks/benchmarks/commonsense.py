"""The eight commonsense benchmarks and their joint training set, in the LLM-Adapters format.

Files are `commonsense/<folder>/{train,test}.json` and `commonsense/commonsense_170k.json` under a
data root. There is no validation file: each training file holds out some of its records
(arXiv:2304.01933 draws 120 of the 170,420 at random).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from gatera.tasks.answers import first_keyword
from gatera.tasks.benchmarks.commonsense_hub import SOURCES
from gatera.tasks.benchmarks.files import Files
from gatera.tasks.benchmarks.instructions import FORM, read_file
from gatera.tasks.task import Task


@dataclass(frozen=True)
class Benchmark:
    """What tells one benchmark from the others."""

    title: str
    folder: str  # below commonsense/ in a data root
    keywords: tuple[str, ...]  # what counts as an answer
    chance: float  # accuracy of guessing among the choices that items usually have


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{number}" for number in range(1, count + 1))


BENCHMARKS: dict[str, Benchmark] = {
    "boolq": Benchmark("BoolQ, yes or no", "boolq", ("true", "false"), 1 / 2),
    "piqa": Benchmark("PIQA, physical goals", "piqa", _numbered("solution", 2), 1 / 2),
    "siqa": Benchmark("SIQA, social situations", "social_i_qa", _numbered("answer", 5), 1 / 3),
    "hellaswag": Benchmark("HellaSwag, endings", "hellaswag", _numbered("ending", 4), 1 / 4),
    "winogrande": Benchmark("WinoGrande, blanks", "winogrande", _numbered("option", 2), 1 / 2),
    "arc_easy": Benchmark("ARC, easy part", "ARC-Easy", _numbered("answer", 5), 1 / 4),
    "arc_challenge": Benchmark("ARC, hard part", "ARC-Challenge", _numbered("answer", 5), 1 / 4),
    "openbookqa": Benchmark("OpenBookQA", "openbookqa", _numbered("answer", 5), 1 / 4),
}

JOINT_TRAINING_SET = "commonsense_170k"


def _task(name: str, benchmark: Benchmark) -> Task:
    folder = f"commonsense/{benchmark.folder}"
    paths = {"train": f"{folder}/train.json", "test": f"{folder}/test.json"}
    return Task(
        title=benchmark.title,
        data=Files(name, paths, read_file, FORM, SOURCES[name]),
        extract=functools.partial(first_keyword, keywords=benchmark.keywords),
        keywords=benchmark.keywords,
        chance=benchmark.chance,
    )


def _joint_training_set() -> Task:
    paths = {"train": f"commonsense/{JOINT_TRAINING_SET}.json"}
    data = Files(JOINT_TRAINING_SET, paths, read_file, FORM, SOURCES[JOINT_TRAINING_SET])
    keywords = tuple(dict.fromkeys(k for each in BENCHMARKS.values() for k in each.keywords))
    extract = functools.partial(first_keyword, keywords=keywords)
    return Task("Commonsense-170K, training alone", data, extract, keywords=keywords)


TASKS: Mapping[str, Task] = {
    **{name: _task(name, benchmark) for name, benchmark in BENCHMARKS.items()},
    JOINT_TRAINING_SET: _joint_training_set(),
}
