"""Weighted sums of adapters, where such a sum is an adapter again."""

from __future__ import annotations

import copy

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor

from gatera.adapter.finding import adapted_layers
from gatera.adapter.layer import GateraLayer
from gatera.adapter.updates import DELTAS
from gatera.errors import InputError

COMBINABLE = tuple(name for name, delta in DELTAS.items() if delta.adds_up)


def combine(tuner: BaseTuner, adapters: list[str], weights: list[float], adapter_name: str) -> None:
    """Add the adapter Σ weight · g · Δ under a new name; see `GateraModel.add_weighted_adapter`.

    Both updates are linear in BA, and Σ c_i B_i A_i = [c_1 B_1 … c_n B_n] [A_1; …; A_n].

    Raises:
        InputError: the sum of these adapters is no adapter; nothing is added then.
    """
    _check(tuner, adapters, weights, adapter_name)
    config = copy.deepcopy(tuner.peft_config[adapters[0]])
    config.gate, config.gate_sharing, config.rank_pattern = "none", "module", {}
    config.sources = {}  # of the gate; what adds up is no code of a user's own
    config.alpha, config.alpha_pattern, config.use_rslora = None, {}, False
    config.r = sum(tuner.peft_config[name].r for name in adapters)
    layers = [layer for _, layer in adapted_layers(tuner) if adapters[0] in layer.updates]
    config.rank_pattern = {
        layer.name: rank for layer in layers if (rank := _rank(layer, adapters)) != config.r
    }
    tuner.peft_config[adapter_name] = config
    tuner.inject_adapter(tuner.model, adapter_name)
    for layer in layers:
        _fill(layer, adapters, weights, adapter_name)


def _rank(layer: GateraLayer, adapters: list[str]) -> int:
    return sum(layer.r[name] for name in adapters)


@torch.no_grad()
def _fill(layer: GateraLayer, adapters: list[str], weights: list[float], adapter_name: str) -> None:
    A = [layer.gatera_A[name] for name in adapters]
    B = [
        layer.gatera_B[name] * _factor(layer, name, weight)
        for name, weight in zip(adapters, weights, strict=True)
    ]
    layer.gatera_A[adapter_name].copy_(torch.cat(A, dim=0))
    layer.gatera_B[adapter_name].copy_(torch.cat(B, dim=1))


def _factor(layer: GateraLayer, adapter_name: str, weight: float) -> float | Tensor:
    scale = weight * layer.scaling[adapter_name]
    gate = layer.constant_gate(adapter_name).value()
    return scale if gate is None else scale * gate


def _check(tuner: BaseTuner, adapters: list[str], weights: list[float], adapter_name: str) -> None:
    unknown = sorted(set(adapters) - set(tuner.peft_config))
    if unknown or not adapters:
        raise InputError(
            f"the adapters {unknown or adapters} to add up do not exist; the model has: "
            f"{', '.join(sorted(tuner.peft_config))}."
        )
    if len(adapters) != len(weights):
        raise InputError(
            f"{len(adapters)} adapters and {len(weights)} weights were given; give one weight for "
            "each adapter."
        )
    if adapter_name in tuner.peft_config:
        raise InputError(
            f"the model has an adapter {adapter_name!r} already; delete it first, or choose "
            "another name."
        )
    configs = [tuner.peft_config[name] for name in adapters]
    deltas = sorted({config.delta for config in configs})
    gates = [config.gate_class() for config in configs]
    if len(deltas) > 1 or deltas[0] not in COMBINABLE:
        raise InputError(
            f"adapters with delta={', '.join(deltas)} do not add up to one adapter; this works "
            f"among adapters that are all {' or all '.join(COMBINABLE)}. "
            f"set_adapter({adapters}) makes them act together."
        )
    if any(gate is not None and gate.input_dependent for gate in gates):
        raise InputError(
            "the gate of an adapter to add up depends on the input, and a sum of updates behind "
            "different gates is no adapter with one gate; "
            f"base_model.set_adapter({adapters}) makes them act together."
        )
    if len({frozenset(_layers_with(tuner, name)) for name in adapters}) > 1:
        raise InputError(
            f"the adapters {', '.join(adapters)} are not on the same layers, so no single adapter "
            "is their sum; use adapters with the same target_modules."
        )


def _layers_with(tuner: BaseTuner, adapter_name: str) -> list[str]:
    return [name for name, layer in adapted_layers(tuner) if adapter_name in layer.updates]
