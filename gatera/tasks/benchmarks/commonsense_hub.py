"""The commonsense benchmarks on the hub, and how their records are worded.

The original data sets have fields of their own; each converter words one record as the published
instruction files do.
"""

from __future__ import annotations

from collections.abc import Sequence

from gatera.tasks.benchmarks.hub import PARQUET, HubSource, Record
from gatera.tasks.benchmarks.instructions import FIELDS, with_options
from gatera.tasks.example import Example


def _question(lead: str, choices: Sequence[str], word: str, answer: int) -> Example:
    """Word a question with numbered choices; `answer` counts from 1."""
    listed = " ".join(
        f"{word.capitalize()}{number}: {choice}" for number, choice in enumerate(choices, start=1)
    )
    formats = "/".join(f"{word}{number}" for number in range(1, len(choices) + 1))
    keyword = f"{word}{answer}"
    return with_options(
        Example(
            instruction=f"{lead}\n\n{listed}\n\nAnswer format: {formats}",
            input="",
            output=f"the correct answer is {keyword}",
            answer=keyword,
        )
    )


def _boolq(record: Record) -> Example:
    keyword = "true" if record["answer"] else "false"
    return with_options(
        Example(
            instruction=(
                "Please answer the following question with true or false, question: "
                f"{record['question']}?\n\nAnswer format: true/false"
            ),
            input="",
            output=f"the correct answer is {keyword}",
            answer=keyword,
        )
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


def _instruction(record: Record) -> Example:
    return with_options(Example(**{name: record[name] for name in FIELDS}))


# The labelled split that stands in for the test set, as in LLM-Adapters.
_VALIDATION = {"train": "train", "test": "validation"}
_TEST = {"train": "train", "test": "test"}

SOURCES: dict[str, HubSource] = {
    "boolq": HubSource("google/boolq", None, _VALIDATION, _boolq),
    "piqa": HubSource("ybisk/piqa", None, _VALIDATION, _piqa, revision=PARQUET),
    "siqa": HubSource("allenai/social_i_qa", None, _VALIDATION, _siqa, revision=PARQUET),
    "hellaswag": HubSource("Rowan/hellaswag", None, _VALIDATION, _hellaswag),
    "winogrande": HubSource("allenai/winogrande", "winogrande_xl", _VALIDATION, _winogrande),
    "arc_easy": HubSource("allenai/ai2_arc", "ARC-Easy", _TEST, _arc),
    "arc_challenge": HubSource("allenai/ai2_arc", "ARC-Challenge", _TEST, _arc),
    "openbookqa": HubSource("allenai/openbookqa", "main", _TEST, _openbookqa),
    "commonsense_170k": HubSource(
        "zwhe99/commonsense_170k", None, {"train": "train"}, _instruction
    ),
}
