"""Generating responses to many prompts: in batches, left-padded, longest prompts first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from gatera.tasks.beginnings import beginning_of

_MOST_TIMES = 4  # as many prompts at once as of the longest


@dataclass(frozen=True)
class Decoding:
    """How responses are generated; nothing is sampled."""

    max_new_tokens: int
    beams: int = 1  # 1 is greedy decoding
    batch_size: int = 64  # prompts generated for at once, of the longest; more of shorter ones


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    known: Mapping[int, str] = MappingProxyType({}),
    *,
    begins_once: bool = False,
) -> Iterator[dict[int, str]]:
    """Yield position in `prompts` -> generated text, a batch at a time.

    The longest prompts come first, so that memory runs out at once or not at all. The text holds
    new tokens alone, special tokens left out. A batch is generated whole or not at all: its
    composition has a say in the last bits.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer, with an end-of-sequence token.
        prompts: Token ids of each prompt.
        decoding: Beams, batch size and the limit of new tokens.
        known: Texts by position; a batch that is known whole is passed over.
        begins_once: Whether what all prompts begin with may be read once, as `beginning_of` says.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    pad = padding_token(tokenizer)
    settings = _generation_config(tokenizer, pad, decoding)
    # Of all prompts, known or not: what is computed does not depend on how far another came.
    beginning = beginning_of(model, prompts) if begins_once else None
    costs = [len(prompt) + decoding.max_new_tokens for prompt in prompts]
    for chosen in _batches(order, costs, decoding.batch_size):
        if all(index in known for index in chosen):
            continue
        begun = () if beginning is None else beginning.tokens
        ids, mask = left_padded([prompts[index] for index in chosen], pad, begun)
        ids, mask = ids.to(model.device), mask.to(model.device)
        cache = None if beginning is None else beginning.cache(len(chosen) * decoding.beams)
        with torch.no_grad():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=settings,
            )
        new_tokens = output[:, ids.shape[1] :].tolist()
        texts = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        yield dict(zip(chosen, texts, strict=True))


def _batches(order: list[int], costs: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Yield parts of `order` that need no more memory than the first: `at_once` of the dearest.

    Args:
        order: Positions, the dearest first.
        costs: Tokens of each position, prompt and answer.
        at_once: How many of the dearest make a part; of cheaper ones up to `_MOST_TIMES` as many.
    """
    start = 0
    while start < len(order):
        fitting = at_once * costs[order[0]] // costs[order[start]]
        stop = start + min(fitting, _MOST_TIMES * at_once)
        yield order[start:stop]
        start = stop


def left_padded(
    sequences: Sequence[Sequence[int]], pad: int, begun: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, both (len(sequences), longest), padded on the left.

    Where all have `begun` alike, the padding stands behind that.
    """
    longest, first, n = max(len(sequence) for sequence in sequences), list(begun), len(begun)
    ids, mask = [], []
    for sequence in sequences:
        padding = longest - len(sequence)
        ids.append([*first, *[pad] * padding, *sequence[n:]])
        mask.append([1] * n + [0] * padding + [1] * (len(sequence) - n))
    return torch.tensor(ids), torch.tensor(mask)


def padding_token(tokenizer: Any) -> int:
    """Return the id to pad with: any will do, since padding is masked."""
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad is None else pad)


def _generation_config(tokenizer: Any, pad: int, decoding: Decoding) -> GenerationConfig:
    # A configuration of its own: hub models ship sampling temperatures in theirs.
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.beams,
        do_sample=False,
        use_cache=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
