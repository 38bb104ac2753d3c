"""The adapted layer: a frozen linear layer, and for each adapter an update behind its gate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import (
    BaseTunerLayer,
    _get_in_out_features,
    check_adapters_to_merge,
)
from peft.utils.quantization_utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.pytorch_utils import Conv1D

from gatera.adapter.cache import products
from gatera.adapter.deltas import DELTAS, Gated, layer_scaled
from gatera.adapter.functional import (
    folded_hadamard_linear,
    folded_weight,
    gated_hadamard_layer,
    gated_linear,
    hadamard_product,
    linear_dtype,
    without_autocast,
)
from gatera.adapter.gates import GATES
from gatera.errors import InputError

if TYPE_CHECKING:
    from gatera.adapter.config import GateraConfig
    from gatera.adapter.recorder import GateRecorder

GeneratorFor = Callable[[str], torch.Generator | None]


class GateraLayer(BaseTunerLayer):  # type: ignore[misc]
    """What PEFT asks of an adapted layer; the parameters of each adapter, by the adapter's name."""

    adapter_layer_names: tuple[str, ...] = ("gatera_A", "gatera_B", "gatera_gate")
    other_param_names: tuple[str, ...] = ("r", "scaling", "delta", "gate", "gatera_dropout")

    # Set while the gates are being recorded; an attribute of the class costs nothing until then.
    recorder: GateRecorder | None = None

    def _set_up(self, base_layer: nn.Module, fan_in_fan_out: bool, quantization: Any) -> None:
        self.base_layer = base_layer
        self.fan_in_fan_out = fan_in_fan_out
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(), **quantization
        )
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.delta: dict[str, str] = {}
        self.gate: dict[str, str] = {}
        self.gatera_dropout = nn.ModuleDict()
        self.gatera_A = nn.ParameterDict()
        self.gatera_B = nn.ParameterDict()
        self.gatera_gate = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True
        self._weight_before_merge: Tensor | None = None
        self.in_features: int
        self.out_features: int
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())

    def update_layer(
        self,
        adapter_name: str,
        config: GateraConfig,
        r: int,
        alpha: float | None,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter of rank `r`, or put a new one in the place of the one of that name."""
        self._refuse_unreadable_weight(config.delta)
        self.r[adapter_name] = r
        self.scaling[adapter_name] = config.scaling(r, alpha)
        self.delta[adapter_name] = config.delta
        self.gate[adapter_name] = config.gate
        self.gatera_dropout[adapter_name] = (
            nn.Dropout(config.dropout) if config.dropout > 0.0 else nn.Identity()
        )
        device = self._parameter_device()
        self.gatera_A[adapter_name] = nn.Parameter(torch.empty(r, self.in_features, device=device))
        self.gatera_B[adapter_name] = nn.Parameter(torch.empty(self.out_features, r, device=device))
        gate = GATES[config.gate]
        if gate is not None:
            self.gatera_gate[adapter_name] = gate(
                self.in_features, config.gate_temperature, device=device
            )
        self.reset_adapter(adapter_name, config, lambda name: None)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    @torch.no_grad()
    def reset_adapter(
        self, adapter_name: str, config: GateraConfig, generator_for: GeneratorFor
    ) -> None:
        """Draw the initial value of every parameter of an adapter.

        A is uniform in ±1/sqrt(in_features), as nn.Linear's weight; B is zero, or uniform in
        ±1/sqrt(r) with `init_weights=False`; the gate as the configuration says.

        Args:
            adapter_name: The adapter, which the layer holds.
            config: Its configuration.
            generator_for: From a parameter's name on this layer, such as "gatera_A", to the
                generator to draw it from; None means torch's global one.
        """
        A, B = self.gatera_A[adapter_name], self.gatera_B[adapter_name]
        if A.device.type == "meta":
            return
        _fill_uniform(A, 1 / math.sqrt(A.shape[1]), generator_for("gatera_A"))
        if config.init_weights:
            B.zero_()
        else:
            _fill_uniform(B, 1 / math.sqrt(B.shape[1]), generator_for("gatera_B"))
        if adapter_name in self.gatera_gate:
            gate: Any = self.gatera_gate[adapter_name]
            gate.reset(config.gate_init_std, config.gate_bias, generator_for("gatera_gate.weight"))

    def gate_depends_on_input(self, adapter_name: str) -> bool:
        """Whether the adapter's gate on this layer differs from token to token."""
        gate = GATES[self.gate[adapter_name]]
        return gate is not None and gate.input_dependent

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return what merging the adapter adds to the base weight, in that weight's layout.

        Raises:
            InputError: the adapter's gate depends on the input, so there is no such weight.
        """
        self._refuse_input_dependent([adapter_name])
        A, B = self.gatera_A[adapter_name], self.gatera_B[adapter_name]
        gated = self._gated(adapter_name, None)
        weight = DELTAS[self.delta[adapter_name]].weight(
            self._unmerged_weight().detach(), A, B, gated.value()
        )
        return weight.t() if self.fan_in_fan_out else weight

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the named adapters (all active ones by default) to the base weight.

        The unmerged weight is kept, and every update is computed from it, so that several
        multiplicative updates add up and `unmerge` gives back the same bits.

        Raises:
            InputError: a gate depends on the input; nothing is merged then.
            ValueError: with `safe_merge`, the merged weight is not finite.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.gatera_A]
        if not names:
            return
        self._refuse_input_dependent(names)
        original = self._stored_weight() if not self.merged else self._weight_before_merge
        assert original is not None
        weight = original
        for name in [*self.merged_adapters, *names]:
            weight = weight + self.get_delta_weight(name).to(weight.device)
        weight = weight.to(original.dtype)
        if safe_merge and not torch.isfinite(weight).all():
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {','.join(names)} seems to be "
                "broken: its parameters hold NaNs or infinities, or overflow the type of the base "
                "weight. Nothing was merged."
            )
        self._weight_before_merge = original
        self.set_base_weight(weight)
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Give the base layer its own weight back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        assert self._weight_before_merge is not None
        merged = self._stored_weight()
        self.set_base_weight(self._weight_before_merge.to(merged.device, merged.dtype))
        self._weight_before_merge = None
        self.merged_adapters.clear()

    def _active_here(self) -> list[str]:
        """The active adapters that this layer has."""
        return [name for name in self.active_adapters if name in self.gatera_A]

    def _gated(self, adapter_name: str, x: Tensor | None, rows: list[int] | None = None) -> Gated:
        """Evaluate the adapter's gate on x, and hand its logit to the recorder if there is one."""
        scaling = self.scaling[adapter_name]
        if adapter_name not in self.gatera_gate:
            return Gated(scaling, None, input_dependent=False)
        gate: Any = self.gatera_gate[adapter_name]
        logit = gate(x)
        if self.recorder is not None and x is not None:
            self.recorder.record(self, adapter_name, logit, rows)
        return Gated(scaling, logit, gate.input_dependent)

    def _update(self, adapter_name: str, x: Tensor, rows: list[int] | None = None) -> Tensor:
        """Return the gated update of one adapter, (..., out)."""
        delta = DELTAS[self.delta[adapter_name]]
        A, B = self.gatera_A[adapter_name], self.gatera_B[adapter_name]
        if delta.additive:
            x = self._cast_input_dtype(x, A.dtype)
        gated = self._gated(adapter_name, x, rows)
        if not delta.needs_weight:
            return delta.update(x, A, A, B, gated, self.gatera_dropout[adapter_name])
        W = self._oriented_weight()
        if self._evaluates():
            return self._update_from_memory(adapter_name, x, W, gated)
        return delta.update(x, W, A, B, gated, self.gatera_dropout[adapter_name])

    def _update_from_memory(self, adapter_name: str, x: Tensor, W: Tensor, gated: Gated) -> Tensor:
        """The update in evaluation, where the product D may still be at hand."""
        dtype = linear_dtype(x)
        A, B = self.gatera_A[adapter_name], self.gatera_B[adapter_name]

        def build() -> Tensor:
            with without_autocast(x):
                scaled = B if gated.input_dependent else layer_scaled(B, gated)
                return hadamard_product(W, A, scaled, dtype)

        sources = self._product_sources(adapter_name, W)
        D = products.get(self, (adapter_name, dtype), sources, build)
        return gated_linear(x, D, gated.logit if gated.input_dependent else None)

    def _product_sources(self, adapter_name: str, W: Tensor) -> tuple[Tensor, ...]:
        """All that the product of an adapter is made from, the base weight first."""
        sources = (W, self.gatera_A[adapter_name], self.gatera_B[adapter_name])
        if adapter_name not in self.gatera_gate or self.gate_depends_on_input(adapter_name):
            return sources
        return (*sources, *self.gatera_gate[adapter_name].parameters())

    def _evaluates(self) -> bool:
        """Whether products are worth keeping: no graph, no training, a weight that stays put."""
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return False
        return self.quantization_backend is None

    def _oriented_weight(self) -> Tensor:
        """The base weight as (out, in), with its graph where it is trained."""
        quantized = self.quantization_backend is not None
        weight: Tensor = self.get_base_weight() if quantized else self.get_base_layer().weight
        return weight.t() if self.fan_in_fan_out else weight

    def _unmerged_weight(self) -> Tensor:
        """The base weight without any merged update, as (out, in)."""
        weight = self._weight_before_merge if self.merged else self._stored_weight()
        assert weight is not None
        return weight.t() if self.fan_in_fan_out else weight

    def _stored_weight(self) -> Tensor:
        """The base weight in its own layout, dequantized, detached."""
        weight: Tensor = self.get_base_weight()
        return weight

    def _parameter_device(self) -> torch.device | None:
        """Meta where the base weight is, so that huge models are counted without drawing."""
        weight = getattr(self.get_base_layer(), "weight", None)
        return weight.device if weight is not None and weight.device.type == "meta" else None

    def _refuse_input_dependent(self, adapter_names: Sequence[str]) -> None:
        for name in adapter_names:
            if self.gate_depends_on_input(name):
                raise InputError(unmergeable(name, self.gate[name]))

    def _refuse_unreadable_weight(self, delta: str) -> None:
        if not DELTAS[delta].needs_weight:
            return
        backend, base = self.quantization_backend, self.get_base_layer()
        if backend is not None and not backend.supports_merge:
            raise InputError(
                f"delta={delta!r} multiplies the base weight, and {backend.backend_name} layers "
                f"({type(base).__name__}) cannot give theirs back from its quantized form; use "
                "delta='lora', or a model quantized with bitsandbytes, HQQ or torchao."
            )
        weight = getattr(base, "weight", None)
        if hasattr(weight, "ds_id") or hasattr(weight, "device_mesh"):
            raise InputError(
                f"delta={delta!r} multiplies the base weight, and this one "
                f"({type(base).__name__}) is partitioned over processes (DeepSpeed ZeRO-3 or "
                "tensor parallelism), so no process holds it whole; use delta='lora', or a "
                "strategy that gathers the weights of a layer, such as FSDP."
            )


class GateraLinear(nn.Module, GateraLayer):
    """An adapted nn.Linear, transformers' Conv1D, or quantized linear layer.

    y = W0 x + Σ_adapters g(x) · Δ(x), over the active adapters.

    Source: GateRA, arXiv:2511.17582.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: GateraConfig,
        r: int,
        alpha: float | None,
        fan_in_fan_out: bool,
        quantization: dict[str, Any],
    ) -> None:
        super().__init__()
        self._set_up(base_layer, fan_in_fan_out, quantization)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, r, alpha, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the adapted output, (..., out), in the base layer's output type.

        Args:
            x: (..., in).
            args: Passed on to the base layer.
            kwargs: Passed on to the base layer, but for `adapter_names`: one adapter's name for
                each example of the batch, or "__base__" for none.
        """
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters and self.merged:
            self.unmerge()
        if adapter_names is not None and not self.disable_adapters:
            return self._mixed_forward(x, adapter_names, *args, **kwargs)
        names = [] if self.disable_adapters or self.merged else self._active_here()
        if len(names) == 1 and not args and not kwargs and self._runs_as_one(names[0]):
            return self._joint_forward(names[0], x)
        result = self._base(x, *args, **kwargs)
        if not names:
            return result
        dtype = result.dtype
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        for name in names:
            result = result + self._update(name, x)
        return result.to(dtype)

    def _base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        return result

    def _mixed_forward(
        self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Each example of the batch with its own adapter."""
        if self.merged:
            raise InputError(
                f"adapter_names was given while {self.merged_adapters} are merged into the base "
                "weight, so the adapters cannot be told apart; call unmerge_adapter() first."
            )
        if len(adapter_names) != len(x):
            raise InputError(
                f"adapter_names has {len(adapter_names)} entries and the batch {len(x)} examples; "
                "give one adapter name for each example."
            )
        result = self._base(x, *args, **kwargs)
        result = result.clone()
        for name in dict.fromkeys(adapter_names):
            if name in self.gatera_A:
                rows = [i for i, other in enumerate(adapter_names) if other == name]
                update = self._update(name, x[rows], rows)
                result[rows] = (result[rows] + update).to(result.dtype)
        return result

    def _runs_as_one(self, adapter_name: str) -> bool:
        """Whether base layer and update can be computed together.

        Not where the base layer is more than its weight and bias (hooks, quantization, another
        adapter inside), nor where dropout gives the update an input of its own.
        """
        if self.delta[adapter_name] != "hira" or self.quantization_backend is not None:
            return False
        base = self.base_layer
        if type(base) not in (nn.Linear, Conv1D) or "forward" in base.__dict__:
            return False
        if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks:
            return False
        dropping = isinstance(self.gatera_dropout[adapter_name], nn.Dropout)
        return not (self.training and dropping)

    def _joint_forward(self, adapter_name: str, x: Tensor) -> Tensor:
        """Base layer and update together."""
        W = self._oriented_weight()
        A, B = self.gatera_A[adapter_name], self.gatera_B[adapter_name]
        gated = self._gated(adapter_name, x)
        bias: Any = self.base_layer.bias
        dtype = linear_dtype(x)
        # In low precision 1 + BA would round small updates away.
        exact = A.dtype == W.dtype == dtype and dtype in (torch.float32, torch.float64)
        if exact and not gated.input_dependent:
            return self._folded_forward(adapter_name, x, W, bias, A, layer_scaled(B, gated))
        if self._evaluates():
            return self._base(x) + self._update_from_memory(adapter_name, x, W, gated)
        if gated.input_dependent:
            return gated_hadamard_layer(x, W, bias, A, B, gated.logit)
        return gated_hadamard_layer(x, W, bias, A, layer_scaled(B, gated), None)

    def _folded_forward(
        self, adapter_name: str, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor
    ) -> Tensor:
        """One product with W ⊙ (1 + BA); in evaluation that weight may be at hand."""
        if not self._evaluates():
            return folded_hadamard_linear(x, W, bias, A, B)
        weight = products.get(
            self,
            (adapter_name, "folded"),
            self._product_sources(adapter_name, W),
            lambda: folded_weight(W, A, B),
        )
        return F.linear(x, weight, bias)

    def train(self, mode: bool = True) -> GateraLinear:
        """Training changes the weights, so products kept for evaluation go."""
        if mode:
            products.discard(self)
        super().train(mode)
        return self

    def __repr__(self) -> str:
        return "gatera." + super().__repr__()

    def extra_repr(self) -> str:
        return str(quantization_extra_repr(self))


def unmergeable(adapter_name: str, gate: str) -> str:
    """Why an adapter cannot be merged, and what to do."""
    return (
        f"adapter {adapter_name!r} cannot be merged: its gate ({gate!r}) depends on the input, so "
        "the update differs from token to token and no single weight can stand for it. Keep the "
        "adapter unmerged, or train with gate='static' or gate='none'; unload() removes it."
    )


def _fill_uniform(parameter: Tensor, bound: float, generator: torch.Generator | None) -> None:
    drawn = torch.rand(parameter.shape, generator=generator)
    parameter.copy_((2 * drawn - 1) * bound)
