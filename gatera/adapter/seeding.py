"""Initial values that depend on a seed and on each parameter's own name.

Two variants of a study that share a parameter then start it at the same value, whatever else
they have beside it, so that their runs are paired.
"""

from __future__ import annotations

import hashlib
from functools import partial

import torch
from torch import nn

from gatera.adapter.finding import adapted_layers
from gatera.errors import InputError


def seed_adapter(model: nn.Module, seed: int, adapter_name: str = "default") -> None:
    """Draw the initial value of every parameter of an adapter again.

    Each parameter has a generator of its own, seeded by `seed` and by the parameter's full name
    in the base model with the adapter's name left out, and the distributions of the adapter's
    configuration. The global generator is neither read nor moved.

    Args:
        model: A model that holds the adapter, such as `peft.get_peft_model` returns.
        seed: Any integer.
        adapter_name: The adapter.

    Raises:
        InputError: the model has no such adapter.
    """
    configs = getattr(model, "peft_config", {})
    if adapter_name not in configs:
        raise InputError(
            f"the model has no adapter {adapter_name!r} to seed; it has: "
            f"{', '.join(sorted(configs)) or 'none'}."
        )
    for name, layer in adapted_layers(model):
        if adapter_name in layer.updates:
            layer.reset_adapter(
                adapter_name, configs[adapter_name], partial(_generator, seed, name)
            )


def _generator(seed: int, layer: str, parameter: str) -> torch.Generator:
    """Return a generator that depends on the seed and the parameter's full name alone."""
    digest = hashlib.sha256(f"{seed}:{layer}.{parameter}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
