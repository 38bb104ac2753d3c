"""What is where in a model that holds adapters."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from gatera.adapter.layer import GateraLayer


def base_model(model: nn.Module) -> nn.Module:
    """The model that the adapters were put into, whatever it is wrapped in."""
    if isinstance(model, PeftModel):
        model = model.base_model
    inner: nn.Module = model.model if isinstance(model, BaseTuner) else model
    return inner


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the layers of a model see two sequences."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def encoder_modules(model: nn.Module) -> set[int]:
    """The identities of the modules in the encoder of an encoder-decoder; none in other models."""
    if not is_encoder_decoder(model):
        return set()
    whole: Any = model
    return {id(module) for module in whole.get_encoder().modules()}


def adapted_layers(model: nn.Module) -> list[tuple[str, GateraLayer]]:
    """Every adapted layer, with its name in the base model."""
    modules = base_model(model).named_modules()
    return [(name, module) for name, module in modules if isinstance(module, GateraLayer)]
