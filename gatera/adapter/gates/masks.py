"""Which tokens of a forward pass are real, read from the arguments of that pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gatera.errors import InputError


def named_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a forward pass by their names."""
    if not args:
        return kwargs
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def cached_tokens(arguments: Mapping[str, Any]) -> int:
    """How many tokens the key-value cache holds already; 0 without one."""
    cache: Any = arguments.get("past_key_values")
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


def fed_tokens(arguments: Mapping[str, Any]) -> int:
    """How many tokens of each example a forward pass is fed; 0 where it does not say."""
    for name in ("input_ids", "inputs_embeds"):
        fed = arguments.get(name)
        if isinstance(fed, Tensor) and fed.dim() > 1:
            return int(fed.shape[1])
    return 0


def real_tokens(arguments: Mapping[str, Any]) -> Tensor | None:
    """Which tokens are real, (batch, tokens so far), nonzero where real; None means all.

    Of a four-dimensional mask (batch, heads, queries, keys) a new token is real that may attend
    to itself, and a cached one that a new token may attend to. Its keys are more than the tokens
    so far where a static cache has room for others, fewer where a window has left some behind.
    """
    mask, cached = _attention_mask(arguments), cached_tokens(arguments)
    if not isinstance(mask, Tensor):
        return None
    if mask.dim() != 4:
        fed = fed_tokens(arguments)
        return mask[:, : cached + fed] if fed and mask.dim() == 2 else mask
    visible = _visible(mask[:, 0])
    queries, keys = visible.shape[-2:]
    before = min(cached, keys - queries)
    itself = visible.diagonal(offset=before, dim1=-2, dim2=-1)  # (batch, queries)
    return torch.cat([visible[..., :before].any(-2), itself], dim=-1)


def mask_of_new_tokens(
    module: nn.Module, arguments: Mapping[str, Any], mask: Tensor | None
) -> Tensor | None:
    """While decoding, which of the tokens fed now are real.

    The mask covers the cached tokens too. `generate` marks every decoded position as real and
    goes on with the padding token in rows that have ended before the others: these are left out.
    """
    ids = arguments.get("input_ids")
    fed = ids if isinstance(ids, Tensor) else arguments.get("inputs_embeds")
    if not isinstance(fed, Tensor) or fed.dim() < 2:
        return mask
    real = torch.ones(fed.shape[:2], dtype=torch.bool, device=fed.device)
    if mask is not None:
        real &= mask[:, -fed.shape[1] :].to(fed.device) != 0
    if isinstance(ids, Tensor):
        for token in _padding_ids(module):
            real &= ids != token
    return real


def check_rows_are_sequences(arguments: Mapping[str, Any], real: Tensor | None) -> None:
    """Refuse a pass in which a token may not see all real tokens before it in its row.

    Args:
        arguments: Of the pass.
        real: As `real_tokens` gives it for them.

    Raises:
        InputError: a mask or the positions say that a row holds several sequences, or the mask
            is of another kind than causal with padding, or cannot be read.
    """
    mask, cached = _attention_mask(arguments), cached_tokens(arguments)
    if mask is not None and not isinstance(mask, Tensor):
        raise InputError(
            f"the attention mask is a {type(mask).__name__}, which an attention gate cannot read; "
            f"give a tensor (batch, tokens){_INSTEAD}"
        )
    if mask is not None and mask.dim() == 4 and not _is_causal(_visible(mask), real, cached):
        raise InputError(
            f"the attention mask {tuple(mask.shape)} hides real tokens from later ones of the "
            "row, or shows them later ones, as those of packed sequences, of sliding windows on "
            "a static cache and of two-way attention do; an attention gate reads all tokens "
            "before. Give one sequence a row, its mask as (batch, tokens), and a dynamic "
            f"cache{_INSTEAD}"
        )
    positions = arguments.get("position_ids")
    if isinstance(positions, Tensor) and _restart(positions, real):
        raise InputError(
            "position_ids do not go up within a row, as where several sequences are packed into "
            "it, and an attention gate would read the sequences before; give each sequence a row "
            f"of its own, padded, with its attention_mask{_INSTEAD}"
        )


_INSTEAD = ", or use gate='mlp', which reads each token alone."


def _attention_mask(arguments: Mapping[str, Any]) -> Any:
    """The attention mask; where each kind of attention layer has one, that of full attention."""
    mask = arguments.get("attention_mask")
    if isinstance(mask, Mapping):
        return mask.get("full_attention", next(iter(mask.values()), None))
    return mask


def _visible(mask: Tensor) -> Tensor:
    """Which keys a query may attend to: boolean masks are True there, additive ones 0."""
    return mask if mask.dtype == torch.bool else mask >= 0


def _is_causal(visible: Tensor, real: Tensor | None, cached: int) -> bool:
    """Whether real tokens see all real tokens up to themselves and no others."""
    assert real is not None
    queries, keys = visible.shape[-2:]
    total = cached + queries
    if keys < total or queries == 1:  # one token sees those that `real` was read from
        return keys >= total
    expected = torch.ones(queries, keys, dtype=torch.bool, device=real.device).tril(cached)
    expected = expected.repeat(len(real), 1, 1)  # (batch, queries, keys)
    expected[..., :total] &= real.unsqueeze(1)
    differs = (visible != expected.unsqueeze(1)).any(-1)  # (batch, heads, queries)
    return not bool((differs & real[:, cached:].unsqueeze(1)).any())


def _restart(positions: Tensor, real: Tensor | None) -> bool:
    """Whether positions of real tokens go back, or stay.

    Args:
        positions: Of the new tokens, (new) or (batch, new); or (axes, batch, new), of which the
            first is time, which stays within an image.
        real: Which tokens so far are real, (batch, all); None means all. transformers then takes
            every step other than 1 for the beginning of another sequence.
    """
    new = positions.shape[-1]
    if new == 1:
        return False
    if positions.dim() == 3:
        positions = positions[0] * new + torch.arange(new, device=positions.device)
    elif real is None:
        return bool((positions.diff() != 1).any())
    if real is None:
        return bool((positions.diff() <= 0).any())
    real = real[:, -new:].to(positions.device) != 0
    reached = torch.where(real, positions, -1).cummax(-1).values[:, :-1]
    return bool((real[:, 1:] & (positions[..., 1:] <= reached)).any())


def _padding_ids(module: nn.Module) -> list[int]:
    """The padding token, or the end tokens that `generate` pads with in its place."""
    config = getattr(module, "generation_config", None) or getattr(module, "config", None)
    padding = getattr(config, "pad_token_id", None)
    if padding is None:
        padding = getattr(config, "eos_token_id", None)
    if padding is None:
        return []
    return list(padding) if isinstance(padding, (list, tuple)) else [padding]
