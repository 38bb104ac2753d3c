"""The adapted layer: a frozen linear layer, and for each adapter an update behind its gate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from gatera.adapter.base_weight import BaseWeightLayer
from gatera.adapter.config import GateraConfig
from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.gates.passes import ForwardPass, preceding_at
from gatera.adapter.gates.sharing import SharedGate
from gatera.adapter.updates.base import Delta, GateValue, GeneratorFor
from gatera.errors import InputError


@dataclass(frozen=True)
class GateThreshold:
    """When a gate counts as closed."""

    below: float  # 0 never closes
    in_training: bool


class Listener(Protocol):
    """Whom a layer tells what its gates do."""

    def record(
        self,
        place: str,
        adapter_name: str,
        gate: nn.Module,
        logit: Tensor,
        rows: list[int] | None,
        threshold: float,
    ) -> None:
        """Take the logit of one gate; `GateRecorder.record` says what the arguments are."""


class GateraLayer(BaseWeightLayer):
    """What PEFT asks of an adapted layer; the parameters of each adapter, by the adapter's name.

    Which of the parameters an adapter has depends on its update (see `updates`); a gate that layers
    share lies on one of them (see `gates.sharing`).
    """

    adapter_layer_names: tuple[str, ...] = (
        "gatera_A",
        "gatera_B",
        "gatera_gate",
    )
    other_param_names: tuple[str, ...] = (
        "r",
        "scaling",
        "delta",
        "gate",
        "updates",
        "gate_thresholds",
        "shared_gates",
        "gatera_dropout",
    )

    # Set while the gates are being recorded; an attribute of the class costs nothing until then.
    recorder: Listener | None = None

    def __init__(
        self, base_layer: nn.Module, name: str, fan_in_fan_out: bool, quantization: Any
    ) -> None:
        super().__init__(base_layer, fan_in_fan_out, quantization)
        self.name = name  # in the base model
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.delta: dict[str, str] = {}
        self.gate: dict[str, str] = {}
        self.updates: dict[str, Delta] = {}
        self.gate_thresholds: dict[str, GateThreshold] = {}
        self.shared_gates: dict[str, SharedGate] = {}
        self.forward_pass: ForwardPass | None = None  # where a gate looks at the tokens before
        self.gatera_dropout = nn.ModuleDict()
        self.gatera_A = nn.ParameterDict()
        self.gatera_B = nn.ParameterDict()
        self.gatera_gate = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True

    def update_layer(
        self,
        adapter_name: str,
        config: GateraConfig,
        r: int,
        alpha: float | None,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter of rank `r`, or put a new one in the place of the one of that name."""
        update_class = config.delta_class()
        if update_class.needs_weight:
            self.refuse_unreadable_weight(config.delta)
            self.read_in_each_pass()
        self.r[adapter_name] = r
        self.scaling[adapter_name] = config.scaling(r, alpha)
        self.delta[adapter_name] = config.delta
        self.gate[adapter_name] = config.gate
        self.gate_thresholds[adapter_name] = GateThreshold(
            config.gate_threshold, config.gate_threshold_in_training
        )
        self.updates[adapter_name] = update_class.configured(
            self.in_features, self.out_features, r, self.scaling[adapter_name], config
        )
        self.gatera_dropout[adapter_name] = (
            nn.Dropout(config.dropout) if config.dropout > 0.0 else nn.Identity()
        )
        self._make_parameters(adapter_name)
        self.shared_gates.pop(adapter_name, None)
        if config.gate_sharing == "module":
            self.make_gate(adapter_name, config, self.in_features)
        self.reset_adapter(adapter_name, config, lambda name: None)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _make_parameters(self, adapter_name: str) -> None:
        """Make the parameters that the update needs, and drop those that another one left.

        The dictionaries of the rarer ones are made with the first: PEFT matches module names by
        their ending, and "gatera_A2" would be taken for a module "2".
        """
        for held in self.adapter_layer_names:
            if adapter_name in getattr(self, held):
                del getattr(self, held)[adapter_name]
        for name, shape in self.updates[adapter_name].shapes().items():
            attribute = f"gatera_{name}"
            if attribute not in self.adapter_layer_names:
                self.adapter_layer_names = (*self.adapter_layer_names, attribute)
                setattr(self, attribute, nn.ParameterDict())
            values = torch.empty(shape, device=self.parameter_device())
            getattr(self, attribute)[adapter_name] = nn.Parameter(values)

    def make_gate(self, adapter_name: str, config: GateraConfig, in_features: int) -> None:
        """Put the adapter's gate on this layer, reading inputs of width `in_features`."""
        gate_class = config.gate_class()
        if gate_class is None:
            return
        shape = GateShape(in_features, self.out_features, config.gate_hidden)
        self.gatera_gate[adapter_name] = gate_class(
            shape, config.gate_temperature, self.parameter_device()
        )

    def take_shared_gate(self, adapter_name: str, config: GateraConfig, in_features: int) -> None:
        """Become the owner of a gate that layers share, reading inputs of width `in_features`."""
        self.make_gate(adapter_name, config, in_features)
        self.reset_gate(adapter_name, config, lambda name: None)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        trained = adapter_name in self.active_adapters and not config.inference_mode
        self.gatera_gate[adapter_name].requires_grad_(trained)

    @torch.no_grad()
    def reset_adapter(
        self, adapter_name: str, config: GateraConfig, generator_for: GeneratorFor
    ) -> None:
        """Draw the initial value of every parameter of an adapter that lies on this layer.

        Args:
            adapter_name: The adapter, which the layer holds.
            config: Its configuration.
            generator_for: From a parameter's name on this layer, such as "gatera_A", to the
                generator to draw it from; None means torch's global one.
        """
        parameters = self._factors(adapter_name)
        if any(parameter.device.type == "meta" for parameter in parameters.values()):
            return
        update = self.updates[adapter_name]
        W = self.oriented(self.unmerged_weight()) if update.needs_weight else None
        if W is None or W.device.type != "meta":
            update.reset(
                parameters, W, config.init_weights, lambda name: generator_for(f"gatera_{name}")
            )
        self.reset_gate(adapter_name, config, generator_for)

    def reset_gate(
        self, adapter_name: str, config: GateraConfig, generator_for: GeneratorFor
    ) -> None:
        """Draw the initial values of the gate that lies on this layer, if one does."""
        if adapter_name not in self.gatera_gate:
            return
        gate: Any = self.gatera_gate[adapter_name]
        if any(parameter.device.type == "meta" for parameter in gate.parameters()):
            return
        gate.reset(
            config.gate_init_std,
            config.gate_bias,
            lambda name: generator_for(f"gatera_gate.{name}"),
        )

    def gate_of(self, adapter_name: str) -> Gate | None:
        """Return the gate that acts on an adapter's update here, its own or a shared one.

        It may be wrapped, as FSDP's wrap policies do; the wrapper passes its attributes on.
        """
        shared = self.shared_gates.get(adapter_name)
        gates = self.gatera_gate if shared is None else shared.owner.gatera_gate
        return cast(Gate, gates[adapter_name]) if adapter_name in gates else None

    @property
    def has_gate(self) -> bool:
        """Whether any adapter has a gate here, its own or a shared one."""
        return bool(self.gatera_gate) or bool(self.shared_gates)

    def gate_depends_on_input(self, adapter_name: str) -> bool:
        """Whether the adapter's gate on this layer differs from token to token."""
        gate = self.gate_of(adapter_name)
        return gate is not None and gate.input_dependent

    def constant_gate(self, adapter_name: str) -> GateValue:
        """Return the value of a gate that does not depend on the input, as evaluation has it."""
        gate = self.gate_of(adapter_name)
        if gate is None:
            return GateValue(None, input_dependent=False)
        unread = next(iter(self._factors(adapter_name).values()))
        logit = gate(unread)
        return _value_of(gate, logit, self.gate_thresholds[adapter_name].below)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return what merging the adapter adds to the base weight, in that weight's layout.

        Raises:
            InputError: the adapter's gate depends on the input, so there is no such weight.
        """
        self._refuse_input_dependent([adapter_name])
        return self._delta_weight(adapter_name, self.unmerged_weight)

    def _delta_weight(self, adapter_name: str, unmerged: Callable[[], Tensor]) -> Tensor:
        update = self.updates[adapter_name]
        W = self.oriented(unmerged()) if update.needs_weight else None
        weight = update.weight(W, self._factors(adapter_name))
        return self.oriented(self.constant_gate(adapter_name).applied(weight))

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the named adapters (all active ones by default) to the base weight.

        The unmerged weight is kept, and every update is computed from it, so that several
        multiplicative updates add up and `unmerge` gives back the same bits.

        Raises:
            InputError: a gate depends on the input; nothing is merged then.
            ValueError: with `safe_merge`, the merged weight is not finite.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.updates]
        if not names:
            return
        self._refuse_input_dependent(names)
        original = self.unmerged_weight()
        weight = original
        for name in [*self.merged_adapters, *names]:
            weight = weight + self._delta_weight(name, lambda: original).to(weight.device)
        weight = weight.to(original.dtype)
        if safe_merge and not torch.isfinite(weight).all():
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {','.join(names)} seems to be "
                "broken: its parameters hold NaNs or infinities, or overflow the type of the base "
                "weight. Nothing was merged."
            )
        self.replace_weight(weight)
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Give the base layer its own weight back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.restore_weight()
        self.merged_adapters.clear()

    def _active_here(self) -> list[str]:
        """The active adapters that this layer has."""
        return [name for name in self.active_adapters if name in self.updates]

    def _factors(self, adapter_name: str) -> dict[str, Tensor]:
        """The parameters of an adapter's update, by their short names."""
        names = self.updates[adapter_name].shapes()
        return {name: getattr(self, f"gatera_{name}")[adapter_name] for name in names}

    def _threshold(self, adapter_name: str) -> float:
        """The value below which the gate counts as closed now; 0 closes none."""
        threshold = self.gate_thresholds[adapter_name]
        return threshold.below if threshold.in_training or not self.training else 0.0

    def _gate_value(self, adapter_name: str, x: Tensor, rows: list[int] | None = None) -> GateValue:
        """Evaluate the adapter's gate, and hand its logit to the recorder if there is one.

        Args:
            adapter_name: The adapter.
            x: The layer's input; that of the examples `rows` alone, where given.
            rows: Which examples of the batch have this adapter; None means all.
        """
        gate = self.gate_of(adapter_name)
        if gate is None:
            return GateValue(None, input_dependent=False)
        if rows is not None and gate.looks_back:
            raise InputError(
                f"adapter_names was given, and the gate of adapter {adapter_name!r} "
                f"({self.gate[adapter_name]!r}) looks at the tokens before, which a mixed batch "
                "does not keep apart; run the examples of each adapter by themselves."
            )
        shared = self.shared_gates.get(adapter_name)
        if shared is None or not gate.input_dependent:
            place = self.name if shared is None else shared.block.name
            fresh = True
            logit = gate(x, preceding_at(self.forward_pass, f"{place}.{adapter_name}"))
        else:
            place = shared.block.name
            logit, fresh = shared.block.logit(adapter_name, gate, self.forward_pass)
            logit = logit if rows is None else logit[rows]
            self._check_tokens(place, logit, x)
        threshold = self._threshold(adapter_name)
        if self.recorder is not None and fresh:
            self.recorder.record(place, adapter_name, gate, logit, rows, threshold)
        return _value_of(gate, logit, threshold)

    def _check_tokens(self, place: str, logit: Tensor, x: Tensor) -> None:
        """Refuse a shared gate for a layer that sees other tokens than its block.

        Raises:
            InputError: the layer reads another sequence, as in cross-attention.
        """
        if logit.shape[:-1] != x.shape[:-1]:
            raise InputError(
                f"{self.name} sees tokens {tuple(x.shape[:-1])}, the gate that it shares with "
                f"{place} was computed from that block's {tuple(logit.shape[:-1])}; leave the "
                "layer out by exclude_modules, or use gate_sharing='module'."
            )

    def _evaluates(self) -> bool:
        """Whether products are worth keeping: no graph, no training, a weight that stays put."""
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return False
        return self.quantization_backend is None

    def _refuse_input_dependent(self, adapter_names: Sequence[str]) -> None:
        for name in adapter_names:
            if self.gate_depends_on_input(name):
                raise InputError(unmergeable(name, self.gate[name]))


def _value_of(gate: Gate, logit: Tensor, threshold: float) -> GateValue:
    return GateValue(
        logit,
        input_dependent=gate.input_dependent,
        per_channel=gate.per_channel,
        threshold=threshold,
    )


def unmergeable(adapter_name: str, gate: str) -> str:
    """Why an adapter cannot be merged, and what to do."""
    return (
        f"adapter {adapter_name!r} cannot be merged: its gate ({gate!r}) depends on the input, so "
        "the update differs from token to token and no single weight can stand for it. Keep the "
        "adapter unmerged, or train with gate='static' or gate='none'; unload() removes it."
    )
