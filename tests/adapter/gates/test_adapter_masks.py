"""Which tokens are real, read from the arguments of a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gatera.adapter.gates.masks import check_rows_are_sequences, real_tokens
from gatera.errors import InputError

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


def check(arguments: dict[str, Any]) -> None:
    check_rows_are_sequences(arguments, real_tokens(arguments))


@pytest.mark.parametrize("cached", [0, 2, 4])
@pytest.mark.parametrize("room", [0, 3])
def test_rows_of_one_sequence_pass(cached: int, room: int) -> None:
    whole = causal(PADDING, 5 + room)[:, :, cached:]
    blank = whole & PADDING.bool()[:, None, cached:, None]  # nothing where the query is padding
    for mask in (PADDING, whole, whole.expand(3, 2, -1, -1), blank, None):
        check(a_pass(mask, cached, 5 - cached))


def test_rows_of_several_sequences_or_of_another_kind_of_mask_are_refused() -> None:
    whole = causal(torch.ones(3, 5, dtype=torch.long))
    packed = whole.clone()
    packed[1, :, 3:, :3] = False
    window = whole & torch.ones(5, 5, dtype=torch.bool).triu(-2)
    both_ways = torch.ones_like(whole)
    one_head = torch.cat([whole, packed], dim=1)
    for mask in (packed, window, both_ways, one_head):
        with pytest.raises(
            InputError, match=r"hides real tokens from later .* a dynamic cache, or"
        ):
            check(a_pass(mask, 0, 5))
    with pytest.raises(InputError, match=r"mask \(3, 1, 1, 3\) hides real tokens from later ones"):
        check(a_pass(window[:, :, 4:, 2:], 4, 1))
    with pytest.raises(InputError, match=r"mask is a Cache, which an attention gate cannot read; "):
        check(a_pass(Cache(0), 0, 5))


@pytest.mark.parametrize(
    ("positions", "mask"),
    [
        ([[0, 0, 0, 1, 2]], [[0, 0, 1, 1, 1]]),
        ([[1, 1, 0, 1, 2]], [[0, 0, 1, 1, 1]]),
        ([[0, 1, 2, 1, 1]], [[1, 1, 1, 0, 0]]),
        ([[0, 1, 1, 2, 3]], [[1, 1, 0, 1, 1]]),
        ([[0, 1, 3, 4, 5]], [[1, 1, 1, 1, 1]]),
        ([[3, 4, 5, 6, 7]], None),
        ([3, 4, 5, 6, 7], None),
        ([[[0, 1, 1, 1, 2]], [[0, 1, 1, 2, 3]], [[0, 1, 2, 1, 3]]], None),
        ([[[1, 0, 1, 1, 2]], [[1, 0, 1, 2, 3]], [[1, 0, 2, 1, 3]]], [[0, 1, 1, 1, 1]]),
    ],
)
def test_positions_of_one_sequence_pass(positions: list[Any], mask: list[Any] | None) -> None:
    given = None if mask is None else torch.tensor(mask)
    check(a_pass(given, 0, 5, position_ids=torch.tensor(positions)))


@pytest.mark.parametrize(
    ("positions", "mask"),
    [
        ([[0, 1, 2, 0, 1]], None),
        ([[0, 1, 2, 0, 1]], [[1, 1, 1, 1, 1]]),
        ([[0, 0, 1, 0, 1]], [[0, 1, 1, 1, 1]]),
        ([[0, 1, 1, 0, 1]], [[1, 1, 0, 1, 1]]),
        ([[0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1]]),
        ([0, 1, 2, 0, 1], None),
        ([[0, 1, 5, 6, 7]], None),  # transformers takes the step for another sequence
        ([[[0, 1, 2, 1, 2]], [[0, 1, 2, 1, 2]], [[0, 1, 2, 1, 2]]], None),
    ],
)
def test_positions_of_packed_sequences_are_refused(
    positions: list[Any], mask: list[Any] | None
) -> None:
    given = None if mask is None else torch.tensor(mask)
    with pytest.raises(InputError, match=r"position_ids do not go up within a row, .* gate='mlp'"):
        check(a_pass(given, 0, 5, position_ids=torch.tensor(positions)))
