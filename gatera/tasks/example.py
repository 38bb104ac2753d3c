"""One item of a task, in the four fields of the LLM-Adapters format (arXiv:2304.01933)."""

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


def content_hash(example: Example) -> str:
    """Return the SHA-256 of the question, blind to letter case and white space.

    Two items with one hash ask the same question, so one must not train while the other tests.
    """
    question = " ".join(f"{example.instruction} {example.input}".casefold().split())
    return hashlib.sha256(question.encode()).hexdigest()
