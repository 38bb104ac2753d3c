"""Dialogue: the next reply of somebody with a persona (ConvAI2). Scored by closeness to the reply.

Files are `convai2/{train,valid}_self_original_no_cands.txt` under a data root, in ParlAI's text
format: numbered lines, 1 begins a dialogue; lines `your persona: ...` come first, then a line for
each exchange, the partner's turn and the reply between a tab. The validation file is the test set,
for the real one was never published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gatera.errors import InputError
from gatera.tasks import metrics
from gatera.tasks.benchmarks.files import Files
from gatera.tasks.benchmarks.records import lines
from gatera.tasks.example import Example
from gatera.tasks.task import Task

# A reply has at most 24 words in ConvAI2's validation set, of which some are several tokens.
MAX_NEW_TOKENS = 48

_PERSONA = "your persona: "
_NUMBERED = re.compile(r"(\d+) (.*)")


@dataclass
class _Dialogue:
    """What was said so far."""

    persona: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)


def _read_dialogues(path: Path) -> list[Example]:
    """Return an item for each exchange of a file in ParlAI's text format."""
    return list(_items(path))


def _items(path: Path) -> Iterator[Example]:
    dialogue, dialogues, previous = _Dialogue(), 0, 0
    for place, line in enumerate(lines(path), start=1):
        where = f"{path}, line {place}"
        number, text = _numbered(line, previous, where)
        if number == 1:
            dialogue, dialogues = _Dialogue(), dialogues + 1
        previous = number
        if text.startswith(_PERSONA) and "\t" not in text and not dialogue.turns:
            dialogue.persona.append(text)
            continue
        partner, reply = _exchange(text, where)
        dialogue.turns.append(f"partner: {partner}")
        yield _item(dialogue, reply, f"dialogue {dialogues}")
        dialogue.turns.append(f"you: {reply}")


def _numbered(line: str, previous: int, where: str) -> tuple[int, str]:
    """Return a line's number and its text."""
    found = _NUMBERED.fullmatch(line)
    if found is None:
        raise InputError(f"{where}: expected a number, a space and a text, found {line[:40]!r}.")
    number = int(found[1])
    if number not in (1, previous + 1):
        raise InputError(
            f"{where}: is numbered {number}; expected {previous + 1}, or 1 where a dialogue begins."
        )
    return number, found[2]


def _exchange(text: str, where: str) -> tuple[str, str]:
    parts = [part.strip() for part in text.split("\t")]
    if len(parts) != 2 or not all(parts):
        raise InputError(
            f"{where}: expected the partner's turn, a tab and the reply, found {text[:40]!r}; the "
            "persona stands before all exchanges, and candidates (no_cands) are not there."
        )
    return parts[0], parts[1]


def _item(dialogue: _Dialogue, reply: str, cluster: str) -> Example:
    parts = ["\n".join(part) for part in (dialogue.persona, dialogue.turns) if part]
    return Example(
        instruction="\n\n".join(["Give your next reply in the dialogue.", *parts]),
        input="",
        output=reply,
        answer=reply,
        cluster=cluster,
    )


@dataclass(frozen=True)
class Benchmark:
    """What tells one benchmark from the others."""

    title: str
    paths: Mapping[str, str]  # split -> file below a data root

    def task(self, name: str) -> Task:
        """Return the benchmark as a task."""
        form = "numbered lines in ParlAI's dialogue format"
        return Task(
            title=self.title,
            data=Files(name, self.paths, _read_dialogues, form),
            extract=metrics.whole_text,
            metric=metrics.ROUGE_L,
            corpus_metrics=metrics.of_texts,
            max_new_tokens=MAX_NEW_TOKENS,
        )


BENCHMARKS: dict[str, Benchmark] = {
    "convai2": Benchmark(
        title="ConvAI2, self persona",
        paths={
            "train": "convai2/train_self_original_no_cands.txt",
            "test": "convai2/valid_self_original_no_cands.txt",
        },
    ),
}

TASKS: Mapping[str, Task] = {name: each.task(name) for name, each in BENCHMARKS.items()}
