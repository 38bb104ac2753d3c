"""Which tokens of a forward pass are real, read from the arguments of that pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


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


def _attention_mask(arguments: Mapping[str, Any]) -> Any:
    """The attention mask; where each kind of attention layer has one, that of full attention."""
    mask = arguments.get("attention_mask")
    if isinstance(mask, Mapping):
        return mask.get("full_attention", next(iter(mask.values()), None))
    return mask


def _visible(mask: Tensor) -> Tensor:
    """Which keys a query may attend to: boolean masks are True there, additive ones 0."""
    return mask if mask.dtype == torch.bool else mask >= 0


def _padding_ids(module: nn.Module) -> list[int]:
    """The padding token, or the end tokens that `generate` pads with in its place."""
    config = getattr(module, "generation_config", None) or getattr(module, "config", None)
    padding = getattr(config, "pad_token_id", None)
    if padding is None:
        padding = getattr(config, "eos_token_id", None)
    if padding is None:
        return []
    return list(padding) if isinstance(padding, (list, tuple)) else [padding]
