"""One item of a task: the four fields of the LLM-Adapters format (arXiv:2304.01933), and more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A question, the text that answers it, and the keyword that counts as right."""

    instruction: str  # the question, with its choices and the answer format
    input: str  # further context; empty in the commonsense benchmarks
    output: str  # the text to be produced
    answer: str  # the keyword within `output` that decides whether an answer is right
    # Texts that could be produced in place of `output`, which is among them; () where there is no
    # choice. Not part of an item's hash: they follow from the other fields.
    options: tuple[str, ...] = ()
    cluster: str = ""  # items of one cluster ask about the same thing; "": each about its own


def content_hash(example: Example) -> str:
    """Return the SHA-256 of the question, blind to letter case and white space.

    Two items with one hash ask the same question, so one must not train while the other tests.
    """
    question = " ".join(f"{example.instruction} {example.input}".casefold().split())
    return hashlib.sha256(question.encode()).hexdigest()
