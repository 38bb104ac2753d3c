"""Whether a saved adapter fits the one that it is loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gatera.adapter.layer import GateraLayer
from gatera.errors import InputError

_PREFIX = "gatera_"


def check_checkpoint(model: nn.Module, adapter_name: str, saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that would leave an adapter partly as it was drawn.

    PEFT warns of missing parameters and goes on with their random values.

    Args:
        model: The model, with the adapter to load into in place.
        adapter_name: The adapter.
        saved: The tensors of the checkpoint by their names in the model.

    Raises:
        InputError: parameters of the adapter are missing, or the file has others, or their
            shapes differ.
    """
    expected = _expected(model, adapter_name)
    found = {
        name.removeprefix("base_model.model."): value
        for name, value in saved.items()
        if isinstance(value, Tensor)
    }
    missing = sorted(set(expected) - set(found))
    unknown = sorted(n for n in set(found) - set(expected) if _is_of_an_adapter(n))
    if missing or unknown:
        raise InputError(
            f"the checkpoint does not fit adapter {adapter_name!r}: "
            f"{_listed('it lacks', missing)}{_listed('it has the unknown', unknown)}"
            "It was saved by another method, with another gate, update or target_modules, or the "
            "file is damaged; load it with the adapter_config.json that was saved beside it."
        )
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise InputError(
                f"the checkpoint does not fit adapter {adapter_name!r}: {name} has the shape "
                f"{tuple(found[name].shape)} in the file and {shape} in the model, so the rank or "
                "the base model differs; load it with the adapter_config.json that was saved "
                "beside it, on the model that it was trained on."
            )


def _expected(model: nn.Module, adapter_name: str) -> dict[str, tuple[int, ...]]:
    """The adapter's parameters by their names in the base model, and their shapes."""
    expected: dict[str, tuple[int, ...]] = {}
    for module_name, layer in model.named_modules():
        if not isinstance(layer, GateraLayer):
            continue
        inner = module_name.removeprefix("base_model.model.")
        for held in layer.adapter_layer_names:
            for name, parameter in getattr(layer, held).named_parameters():
                if name == adapter_name or name.startswith(f"{adapter_name}."):
                    expected[f"{inner}.{held}.{name}"] = tuple(parameter.shape)
    return expected


def _is_of_an_adapter(name: str) -> bool:
    """Whether a saved tensor belongs to an adapter, ours or another method's."""
    return any(part.startswith((_PREFIX, "lora_", "hira_")) for part in name.split("."))


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{what} {shown}. "
