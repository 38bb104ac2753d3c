"""One item of a task: the four fields of the LLM-Adapters format (arXiv:2304.01933), and more."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A question, the text that answers it, and the keyword that counts as right."""

    instruction: str  # the question, with its choices and the answer format
    input: str  # further context; empty in the commonsense benchmarks
    output: str  # the text to be produced
    answer: str  # what decides whether an answer is right, as the task's `extract` reads `output`
    # Texts that could be produced in place of `output`, which is among them; () where there is no
    # choice. Not part of an item's hash: they follow from the other fields.
    options: tuple[str, ...] = ()
    cluster: str = ""  # items of one cluster ask about the same thing; "": each about its own
    # Questions of other items that this one was made of, by rewording for instance. Not part of an
    # item's hash; where one of them is tested, this item may not train.
    made_of: tuple[str, ...] = ()


def content_hash(example: Example) -> str:
    """Return the SHA-256 of the question, blind to letter case and white space.

    Two items with one hash ask the same question, so one must not train while the other tests.
    """
    return _question_hash(f"{example.instruction} {example.input}")


def question_hashes(example: Example) -> set[str]:
    """Return the hashes of all questions that an item gives away: its own, and those it is made of.

    Two items that share one must not stand on two sides either.
    """
    return {content_hash(example), *map(_known_question_hash, example.made_of)}


def _question_hash(text: str) -> str:
    question = " ".join(text.casefold().split())
    return hashlib.sha256(question.encode()).hexdigest()


@functools.cache
def _known_question_hash(text: str) -> str:
    # Some twenty-five items of MetaMathQA share one question.
    return _question_hash(text)
