"""Which tokens are real, read from the arguments of a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gatera.adapter.masks import real_tokens

PADDING = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


class Cache:
    """A key-value cache that holds so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def get_seq_length(self) -> int:
        return self.tokens


def causal(padding: Tensor, keys: int | None = None) -> Tensor:
    """The boolean mask (batch, 1, tokens, keys) that transformers makes of one of padding."""
    batch, tokens = padding.shape
    mask = torch.zeros(batch, 1, tokens, keys or tokens, dtype=torch.bool)
    mask[..., :tokens] = padding.bool()[:, None, None, :]
    return mask & torch.ones(tokens, keys or tokens, dtype=torch.bool).tril()


def a_pass(mask: Any, cached: int, new: int, **others: Tensor) -> dict[str, Any]:
    ids = torch.zeros(3, new, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": mask, "past_key_values": Cache(cached), **others}


@pytest.mark.parametrize("cached", [0, 2, 4])
@pytest.mark.parametrize("room", [0, 3])
def test_masks_of_every_form_tell_the_same_tokens(cached: int, room: int) -> None:
    whole = causal(PADDING, 5 + room)[:, :, cached:]
    additive = torch.zeros(whole.shape).masked_fill(~whole, torch.finfo(torch.float32).min)
    wide = torch.nn.functional.pad(PADDING, (0, room))
    blank = {"sliding_attention": torch.zeros_like(whole), "full_attention": whole}
    for mask in (wide, whole, additive, blank):
        real = real_tokens(a_pass(mask, cached, 5 - cached))
        assert real is not None
        assert torch.equal(real != 0, PADDING != 0)


def test_no_mask_means_that_all_tokens_are_real() -> None:
    assert real_tokens(a_pass(None, 2, 3)) is None
    assert real_tokens(a_pass({"full_attention": None}, 2, 3)) is None
