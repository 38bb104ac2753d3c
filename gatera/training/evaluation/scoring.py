"""Answering test and validation items, and what the answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gatera.tasks import find
from gatera.tasks.decoding import Decoding, generate, padding_token
from gatera.tasks.example import content_hash
from gatera.tasks.mixture import Item
from gatera.training.data import Encoded, collate, encode_cached
from gatera.training.evaluation.choices import (
    Choice,
    encode_choices,
    log_likelihoods,
    right_log_probability,
)
from gatera.training.evaluation.likelihood import token_loss
from gatera.training.logits import IGNORED


@dataclass(frozen=True)
class Prediction:
    """One item's answer; the fields are the columns of the predictions file."""

    task: str
    index: int  # of the item in its test set, from 0
    cluster: str  # items of one cluster ask about the same thing; "": each about its own
    output: str  # what the model wrote, or the option that it finds likeliest
    extracted: str | None  # the answer in it; None where there is none
    answer: str  # the right answer
    correct: bool | None  # None where answers are not right or wrong, but better or worse
    score: float  # by the task's metric, from 0 to 1
    # Of the right option against the others, in nats; None where the item has no options, or where
    # nobody asked.
    log_probability: float | None


@dataclass(frozen=True)
class Answering:
    """How items are answered."""

    decoding: Decoding
    chooses: bool  # whether an item with options is answered by the one that is likeliest
    weighs: bool  # whether the options are weighed where the answer is generated, too
    # Whether options may stand side by side, and a common beginning be read once: see `may_pack`.
    packs: bool


@dataclass(frozen=True)
class Known:
    """What need not be computed again, by place."""

    outputs: Mapping[int, str] = field(default_factory=dict)
    likelihoods: Mapping[int, Sequence[float]] = field(default_factory=dict)  # of options, in nats


NOTHING_KNOWN = Known()


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

    def choices(self, tokenizer: Any) -> dict[int, Choice]:
        """Return place -> the item's options in tokens, of the items that have any."""
        options = [item.example.options for item in self.items]
        return encode_choices(options, self.encoded, tokenizer)

    def likeliest(self, place: int, likelihoods: Sequence[float]) -> str:
        """Return the option of the item at `place` that is likeliest; of equals the first.

        Args:
            place: Of the item, from 0.
            likelihoods: The log-likelihood of each of its options, in nats.
        """
        best = max(range(len(likelihoods)), key=lambda option: likelihoods[option])
        return self.items[place].example.options[best]


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
    how: Answering,
    *,
    known: Known = NOTHING_KNOWN,
    on_batch: Callable[[Known], None] = lambda found: None,
) -> list[Prediction]:
    """Answer questions and read the answers, in the order of the questions.

    Args:
        model: The model, in any mode; it is left in evaluation mode.
        tokenizer: Its tokenizer.
        questions: What to answer.
        how: How.
        known: What need not be computed again.
        on_batch: Called after each batch with what it found.
    """
    model.eval()
    likelihoods = dict(known.likelihoods)
    if how.chooses or how.weighs:
        for weighed in log_likelihoods(
            model,
            tokenizer,
            questions.choices(tokenizer),
            how.decoding.batch_size,
            packs=how.packs,
            known=known.likelihoods,
        ):
            likelihoods |= weighed
            on_batch(Known(likelihoods=weighed))
    texts = dict(known.outputs)
    if how.chooses:
        texts |= {place: questions.likeliest(place, of) for place, of in likelihoods.items()}
    written = [n for n in range(len(questions)) if not (how.chooses and n in likelihoods)]
    prompts = [questions.encoded.prompt(place) for place in written]
    done = {n: texts[place] for n, place in enumerate(written) if place in texts}
    for generated in generate(model, tokenizer, prompts, how.decoding, done, begins_once=how.packs):
        outputs = {written[n]: text for n, text in generated.items()}
        texts |= outputs
        on_batch(Known(outputs))
    return [
        _judge(questions, place, texts[place], likelihoods.get(place))
        for place in range(len(questions))
    ]


def _judge(
    questions: Questions, place: int, text: str, likelihoods: Sequence[float] | None
) -> Prediction:
    item = questions.items[place]
    task, example = find(item.task), item.example
    extracted = task.extract(text)
    score = task.metric.of_item(text, extracted, example)
    log_probability = None
    if likelihoods is not None:
        right = example.options.index(example.output)
        log_probability = right_log_probability(likelihoods, right)
    return Prediction(
        item.task,
        questions.indices[place],
        example.cluster,
        text,
        extracted,
        example.answer.casefold() if task.keywords else example.answer,
        bool(score) if task.metric.has_right_answers else None,
        score,
        log_probability,
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


def mean_score(predictions: Sequence[Prediction]) -> float:
    """Return the mean over items of what the answers are worth: accuracy, where that is metric."""
    return sum(each.score for each in predictions) / len(predictions)


def share_without_keyword(predictions: Sequence[Prediction]) -> float:
    """Return the share of outputs that hold no answer keyword; they count as wrong."""
    return sum(each.extracted is None for each in predictions) / len(predictions)
