"""The commonsense benchmarks from the hub, converted to the LLM-Adapters format.

Needs the extra `hub` (the `datasets` package) and a network. The original data sets have fields
of their own; each converter words one record as the published instruction files do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatera.errors import InputError
from gatera.tasks import commonsense
from gatera.tasks.example import Example
from gatera.trial import sha256_of

Record = Mapping[str, Any]


@dataclass(frozen=True)
class HubSource:
    """Where a benchmark is on the hub and how one of its records is worded."""

    configuration: str | None
    test_split: str  # the labelled split that stands in for the test set, as in LLM-Adapters
    convert: Callable[[Record], Example]
    revision: str | None = None  # the automatic Parquet branch where the main one is a script


def _question(lead: str, choices: Sequence[str], word: str, answer: int) -> Example:
    """Word a question with numbered choices; `answer` counts from 1."""
    listed = " ".join(
        f"{word.capitalize()}{number}: {choice}" for number, choice in enumerate(choices, start=1)
    )
    formats = "/".join(f"{word}{number}" for number in range(1, len(choices) + 1))
    keyword = f"{word}{answer}"
    return Example(
        instruction=f"{lead}\n\n{listed}\n\nAnswer format: {formats}",
        input="",
        output=f"the correct answer is {keyword}",
        answer=keyword,
    )


def _boolq(record: Record) -> Example:
    keyword = "true" if record["answer"] else "false"
    return Example(
        instruction=(
            "Please answer the following question with true or false, question: "
            f"{record['question']}?\n\nAnswer format: true/false"
        ),
        input="",
        output=f"the correct answer is {keyword}",
        answer=keyword,
    )


def _piqa(record: Record) -> Example:
    lead = f"Please choose the correct solution to the question: {record['goal']}"
    return _question(lead, (record["sol1"], record["sol2"]), "solution", record["label"] + 1)


def _siqa(record: Record) -> Example:
    lead = (
        "Please choose the correct answer to the question: "
        f"{record['context']} {record['question']}"
    )
    choices = (record["answerA"], record["answerB"], record["answerC"])
    return _question(lead, choices, "answer", int(record["label"]))


def _hellaswag(record: Record) -> Example:
    lead = (
        "Please choose the correct ending to complete the given sentence: "
        f"{record['activity_label']}: {record['ctx']}"
    )
    return _question(lead, record["endings"], "ending", int(record["label"]) + 1)


def _winogrande(record: Record) -> Example:
    lead = (
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        f"{record['sentence']}"
    )
    return _question(lead, (record["option1"], record["option2"]), "option", int(record["answer"]))


def _multiple_choice(stem: str, record: Record) -> Example:
    choices = record["choices"]
    answer = list(choices["label"]).index(record["answerKey"]) + 1
    lead = f"Please choose the correct answer to the question: {stem}"
    return _question(lead, choices["text"], "answer", answer)


def _arc(record: Record) -> Example:
    return _multiple_choice(record["question"], record)


def _openbookqa(record: Record) -> Example:
    return _multiple_choice(record["question_stem"], record)


_PARQUET = "refs/convert/parquet"

SOURCES: dict[str, HubSource] = {
    "boolq": HubSource(None, "validation", _boolq),
    "piqa": HubSource(None, "validation", _piqa, revision=_PARQUET),
    "siqa": HubSource(None, "validation", _siqa, revision=_PARQUET),
    "hellaswag": HubSource(None, "validation", _hellaswag),
    "winogrande": HubSource("winogrande_xl", "validation", _winogrande),
    "arc_easy": HubSource("ARC-Easy", "test", _arc),
    "arc_challenge": HubSource("ARC-Challenge", "test", _arc),
    "openbookqa": HubSource("main", "test", _openbookqa),
}


def hub_id_of(task: str) -> str:
    """Return the hub id that a task is fetched from."""
    if task == commonsense.JOINT_TRAINING_SET:
        return commonsense.JOINT_TRAINING_SET_HUB_ID
    return commonsense.BENCHMARKS[task].hub_id


def load(task: str, split: str) -> list[Example]:
    """Fetch a split from the hub.

    Raises:
        InputError: the `datasets` package is missing, or the hub does not answer.
    """
    if task == commonsense.JOINT_TRAINING_SET:
        records = _fetch(task, None, "train", None)
        examples = [Example(**{name: row[name] for name in commonsense.FIELDS}) for row in records]
    else:
        source = SOURCES[task]
        hub_split = source.test_split if split == "test" else "train"
        records = _fetch(task, source.configuration, hub_split, source.revision)
        examples = [source.convert(record) for record in records]
    return examples if split == "test" else commonsense.select_split(examples, split)


def fingerprint(task: str, split: str) -> str:
    """Return the SHA-256 of the examples that `load` returns, in hex.

    Raises:
        InputError: as `load`.
    """
    examples = load(task, split)
    return sha256_of([[e.instruction, e.input, e.output, e.answer] for e in examples])


def _fetch(
    task: str, configuration: str | None, split: str, revision: str | None
) -> Sequence[Record]:
    hub_id = hub_id_of(task)
    where = (
        f"task {task}: no data root was given (--data-root or GATERA_DATA_ROOT), so it would come "
        f"from the hub data set {hub_id}"
    )
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{where}, which needs the package `datasets`; give a data root, or install it with "
            "`pip install gatera[hub]`."
        ) from error
    try:
        rows: Sequence[Record] = datasets.load_dataset(
            hub_id, configuration, split=split, revision=revision
        )
    except Exception as error:  # the hub's clients raise some twenty unrelated classes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{where}, which could not be read ({type(error).__name__}: {reason[0]}); give a data "
            "root, or check the connection."
        ) from error
    return rows
