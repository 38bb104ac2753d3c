"""How likely a model finds each option of an item: one forward pass, the prompt in it once.

What options begin with alike stands in the prompt. The rest of each follows behind it, side by
side, and sees the prompt and itself: a row of a batch is `prompt | rest 1 | rest 2 | ...` under a
mask of its own, with positions that begin again behind the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatera.tasks.beginnings import Beginning, beginning_of
from gatera.tasks.decoding import padding_token
from gatera.training.data import Encoded

_PADDING, _SHARED = -1, 0  # segments of a row; from 1 on they are options

# Gates that read each token alone. Others read the tokens before, and would take one option's for
# another's.
TOKENWISE_GATES = ("token", "static", "none", "mlp", "channel")


@dataclass(frozen=True)
class Choice:
    """An item's options, in tokens."""

    shared: tuple[int, ...]  # the prompt, and what all options begin with
    rests: tuple[tuple[int, ...], ...]  # of each option, to the end of the response


def encode_choices(
    options: Sequence[Sequence[str]], encoded: Encoded, tokenizer: Any
) -> dict[int, Choice]:
    """Return place -> options in tokens, of the items that have any.

    Args:
        options: Of each item, the texts that could follow its prompt.
        encoded: The items' prompts.
        tokenizer: The model's tokenizer.
    """
    texts = [text for found in options for text in found]
    if not texts:
        return {}
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    choices = {}
    for place, found in enumerate(options):
        responses = [(*next(ids), tokenizer.eos_token_id) for _ in found]
        if responses:
            alike = _common(responses)
            shared = (*encoded.prompt(place), *responses[0][:alike])
            choices[place] = Choice(shared, tuple(each[alike:] for each in responses))
    return choices


def _common(responses: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all responses begin with alike; each keeps one at least."""
    shortest = min(len(each) for each in responses) - 1
    columns = list(zip(*responses, strict=False))[:shortest]
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), shortest)


def may_pack(model: Any, gate: str | None) -> bool:
    """Return whether options may stand side by side in a row, and what is common be read once.

    They may where the model takes a mask of four dimensions as it is, and no gate reads the tokens
    before; else each option has a row of its own.

    Args:
        model: A causal language model.
        gate: The adapter's gate; None without an adapter.
    """
    config = model.config
    takes_masks = getattr(config, "_attn_implementation", None) == "sdpa"
    slides = getattr(config, "sliding_window", None) or getattr(config, "layer_types", None)
    return takes_masks and not slides and (gate is None or gate in TOKENWISE_GATES)


def log_likelihoods(
    model: Any,
    tokenizer: Any,
    choices: Mapping[int, Choice],
    batch_size: int,
    *,
    packs: bool,
    known: Mapping[int, Sequence[float]] = MappingProxyType({}),
) -> Iterator[dict[int, list[float]]]:
    """Yield place -> log-likelihood of the rest of each option, in nats, a batch at a time.

    The longest items come first; a batch is computed whole or not at all, as in `generate`.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        choices: What is asked, by place.
        batch_size: Items in a batch.
        packs: Whether options stand side by side, as `may_pack` says.
        known: Log-likelihoods by place; a batch that is known whole is passed over.
    """
    order = sorted(choices, key=lambda place: (-_length(choices[place]), place))
    pad = padding_token(tokenizer)
    shared = [choice.shared for choice in choices.values()]
    beginning = beginning_of(model, shared) if packs else None
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        if all(place in known for place in places):
            continue
        batch = [choices[place] for place in places]
        if packs:
            found = _of_rows(model, batch, pad, beginning)
        else:
            alone = [Choice(each.shared, (rest,)) for each in batch for rest in each.rests]
            values = iter(_of_rows(model, alone, pad, None))
            found = [[next(values)[0] for _ in each.rests] for each in batch]
        yield dict(zip(places, found, strict=True))


def _length(choice: Choice) -> int:
    return len(choice.shared) + sum(len(rest) for rest in choice.rests)


def right_log_probability(log_likelihoods: Sequence[float], right: int) -> float:
    """Return the log-probability of the right option against the others, in nats.

    log p_r / Σ_o p_o over the options o; what all begin with cancels.
    """
    largest = max(log_likelihoods)
    total = math.log(sum(math.exp(each - largest) for each in log_likelihoods))
    return log_likelihoods[right] - largest - total


@dataclass(frozen=True)
class _Rows:
    """A batch of items: prompts end in one column, from which on options follow."""

    ids: np.ndarray  # (rows, tokens)
    segments: np.ndarray  # (rows, tokens): _PADDING, _SHARED, or an option's number from 1
    positions: np.ndarray  # (rows, tokens)
    first: int  # the column in which options begin
    begun: int = 0  # tokens before them, which all items share and the model has read


def _of_rows(
    model: Any, batch: Sequence[Choice], pad: int, beginning: Beginning | None
) -> list[list[float]]:
    """Return each option's log-likelihood, by item."""
    begun = 0 if beginning is None else len(beginning.tokens)
    rows = _rows([Choice(each.shared[begun:], each.rests) for each in batch], pad, begun)
    logits = _logits(model, rows, None if beginning is None else beginning.cache(len(batch)))
    # They are (rows, tokens from `first` - 1 on, vocabulary)
    where: list[tuple[int, int, int]] = []  # (row, column that predicts it, token)
    lengths = []
    for row, choice in enumerate(batch):
        start = 1  # column 0 is the last one before the options
        for rest in choice.rests:
            where += [(row, 0, rest[0])]
            where += [(row, start + n, token) for n, token in enumerate(rest[1:])]
            lengths.append(len(rest))
            start += len(rest) - 1
    found = torch.tensor(where, device=logits.device)
    scores = logits[found[:, 0], found[:, 1]].float().log_softmax(-1)
    tokens = scores.gather(1, found[:, 2:])[:, 0].double().cpu()
    sums = iter(part.sum().item() for part in torch.split(tokens, lengths))
    return [[next(sums) for _ in choice.rests] for choice in batch]


def _logits(model: Any, rows: _Rows, cache: Any) -> Tensor:
    device = model.device
    kept = rows.ids.shape[1] - rows.first + 1
    with torch.no_grad():
        output = model(
            input_ids=torch.from_numpy(rows.ids).to(device),
            attention_mask=torch.from_numpy(_mask(rows)).to(device),
            position_ids=torch.from_numpy(rows.positions).to(device),
            logits_to_keep=kept,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    logits: Tensor = output.logits[:, -kept:]
    return logits


def _rows(batch: Sequence[Choice], pad: int, begun: int) -> _Rows:
    """Return the tokens that a pass is fed: of each option all but the last."""
    first = max(len(choice.shared) for choice in batch)
    width = first + max(sum(len(rest) - 1 for rest in choice.rests) for choice in batch)
    ids = np.full((len(batch), width), pad, np.int64)
    segments = np.full((len(batch), width), _PADDING, np.int64)
    positions = np.zeros((len(batch), width), np.int64)
    for row, choice in enumerate(batch):
        length = len(choice.shared)
        ids[row, first - length : first] = choice.shared
        segments[row, first - length : first] = _SHARED
        positions[row, first - length : first] = np.arange(begun, begun + length)
        start = first
        for number, rest in enumerate(choice.rests, start=1):
            end = start + len(rest) - 1
            ids[row, start:end] = rest[:-1]
            segments[row, start:end] = number
            positions[row, start:end] = begun + np.arange(length, length + end - start)
            start = end
    return _Rows(ids, segments, positions, first, begun)


def _mask(rows: _Rows) -> np.ndarray:
    """Return what each token attends to: two-dimensional where a row is one plain sequence.

    Else (rows, 1, queries, keys), True where a token sees another: what stands before it in the
    prompt or in its own option, and what all items begin with. Padding sees itself, since a token
    that sees none has no output.
    """
    if rows.segments.max() <= 1:
        plain = (rows.segments != _PADDING).astype(np.int64)
        return np.pad(plain, ((0, 0), (rows.begun, 0)), constant_values=1)
    keys, queries = rows.segments[:, None, :], rows.segments[:, :, None]
    columns = np.arange(rows.segments.shape[1])
    before = columns[None, :] <= columns[:, None]
    seen = before & (keys != _PADDING) & ((keys == _SHARED) | (keys == queries))
    mask = (seen | (columns[None, :] == columns[:, None]))[:, None]
    return np.pad(mask, ((0, 0), (0, 0), (0, 0), (rows.begun, 0)), constant_values=True)
