"""Answering test and validation items, and what the answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from gatera.tasks import extract_answer
from gatera.tasks.decoding import Decoding, generate, padding_token
from gatera.tasks.example import content_hash
from gatera.tasks.mixture import Item
from gatera.training.data import IGNORED, Encoded, collate, encode_cached
from gatera.training.evaluation.likelihood import token_loss


@dataclass(frozen=True)
class Prediction:
    """One item's answer; the fields are the columns of the predictions file."""

    task: str
    index: int  # of the item in its test set, from 0
    output: str  # what the model wrote
    extracted: str | None  # the keyword in it; None where there is none
    answer: str  # the right keyword
    correct: bool


@dataclass(frozen=True)
class Questions:
    """Items of one or several tasks, ready to be answered."""

    items: list[Item]
    indices: list[int]  # each item's place in its own set
    encoded: Encoded

    @classmethod
    def of(
        cls,
        items: list[Item],
        limit: int | None,
        tokenizer: Any,
        template: str,
        longest: int | None,
    ) -> Questions:
        """Return the first `limit` items by content hash, their prompts cut to `longest` tokens."""
        places = first_by_hash(items, limit)
        chosen = [items[place] for place in places]
        examples = [item.example for item in chosen]
        return cls(chosen, places, encode_cached(examples, tokenizer, template, longest))

    def __len__(self) -> int:
        return len(self.items)


def first_by_hash(items: Sequence[Item], limit: int | None) -> list[int]:
    """Return the places of the first `limit` items by content hash, in ascending order.

    A cut test set is then a sample of the whole, whatever the order of its file. None: all.
    """
    if limit is None or limit >= len(items):
        return list(range(len(items)))
    by_hash = sorted(range(len(items)), key=lambda place: content_hash(items[place].example))
    return sorted(by_hash[:limit])


def answer(
    model: Any,
    tokenizer: Any,
    questions: Questions,
    decoding: Decoding,
    *,
    known: Mapping[int, str] = MappingProxyType({}),
    on_batch: Callable[[Mapping[int, str], int], None] = lambda outputs, answered: None,
) -> list[Prediction]:
    """Generate and read the answers, in the order of the questions.

    Args:
        model: The model, in any mode; it is left in evaluation mode.
        tokenizer: Its tokenizer.
        questions: What to answer.
        decoding: How.
        known: Outputs by place, which need not be generated again.
        on_batch: Called after each batch with its outputs by place, and with the number of items
            answered so far.
    """
    model.eval()
    prompts = [questions.encoded.prompt(place) for place in range(len(questions))]
    texts = dict(known)
    for outputs in generate(model, tokenizer, prompts, decoding, known):
        texts |= outputs
        on_batch(outputs, len(texts))
    return [_judge(questions, place, texts[place]) for place in range(len(questions))]


def _judge(questions: Questions, place: int, text: str) -> Prediction:
    item = questions.items[place]
    extracted = extract_answer(item.task, text)
    right = item.example.answer.casefold()
    return Prediction(
        item.task, questions.indices[place], text, extracted, right, extracted == right
    )


def mean_loss(model: Any, tokenizer: Any, questions: Questions, batch_size: int) -> float:
    """Return the mean over response tokens of the cross-entropy of the right responses, in nats."""
    model.eval()
    pad = padding_token(tokenizer)
    total, tokens = 0.0, 0
    order = sorted(range(len(questions)), key=lambda place: questions.encoded.lengths[place])
    for start in range(0, len(order), batch_size):
        batch = collate(questions.encoded, order[start : start + batch_size], pad)
        count = int((batch["labels"] != IGNORED).sum())
        with torch.no_grad():
            loss = token_loss(model, {name: t.to(model.device) for name, t in batch.items()})
        total += float(loss) * count
        tokens += count
    return total / tokens


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Return the share of right answers."""
    return sum(each.correct for each in predictions) / len(predictions)


def share_without_keyword(predictions: Sequence[Prediction]) -> float:
    """Return the share of outputs that hold no answer keyword; they count as wrong."""
    return sum(each.extracted is None for each in predictions) / len(predictions)
