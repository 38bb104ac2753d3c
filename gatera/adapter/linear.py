"""The adapted linear layer: how base layer, update and gate are put together in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from peft.utils.quantization_utils import quantization_extra_repr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.pytorch_utils import Conv1D

from gatera.adapter.config import GateraConfig
from gatera.adapter.gates.base import Gate
from gatera.adapter.kernels.cache import products
from gatera.adapter.kernels.functional import Weight
from gatera.adapter.layer import GateraLayer
from gatera.adapter.updates.base import (
    NO_GATE,
    Affine,
    GateValue,
    Parameters,
    UnreadGate,
    UpdateInputs,
)
from gatera.errors import InputError


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
        name: str,
        fan_in_fan_out: bool,
        quantization: dict[str, Any],
    ) -> None:
        super().__init__()
        GateraLayer.__init__(self, base_layer, name, fan_in_fan_out, quantization)
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
        if len(names) == 1 and not args and not kwargs:
            joined = self._with_base(names[0], x)
            if joined is not None:
                return joined
        result = self._base(x, *args, **kwargs)
        if not names:
            return result
        dtype = result.dtype
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        base = result
        for name in names:
            result = self._with_update(name, result, x, base)
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
                "Cannot pass `adapter_names` when there are merged adapters, please call "
                f"`unmerge_adapter` first. {self.merged_adapters} are part of the base weight, so "
                "the examples cannot be told apart."
            )
        if len(adapter_names) != len(x):
            raise InputError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively; give one adapter name for each "
                "example."
            )
        base = self._base(x, *args, **kwargs)
        result = base.clone()
        for name in dict.fromkeys(adapter_names):
            if name in self.updates:
                rows = [i for i, other in enumerate(adapter_names) if other == name]
                updated = self._with_update(name, base[rows], x[rows], base[rows], rows)
                result[rows] = updated.to(result.dtype)
        return result

    def _with_update(
        self,
        adapter_name: str,
        result: Tensor,
        x: Tensor,
        base: Tensor,
        rows: list[int] | None = None,
    ) -> Tensor:
        """Return `result` plus the gated update of one adapter, (..., out).

        Args:
            adapter_name: The adapter.
            result: What the update is added to.
            x: The layer's input.
            base: The base layer's output for x.
            rows: As in `_gated`.
        """
        update, parameters = self.updates[adapter_name], self._factors(adapter_name)
        if update.joins_gate and rows is None and not self._drops(adapter_name):
            gate = self._unread_gate(adapter_name, x)
            if gate.soft and gate.affine is not None:
                inputs = self._inputs(adapter_name, parameters, x, base)
                return result + update.with_gate(inputs, parameters, gate)
        gate_value = self._gate_value(adapter_name, x, rows)
        inputs = self._inputs(adapter_name, parameters, x, base)
        if gate_value.threshold > 0.0 and update.costly and not torch.compiler.is_compiling():
            return self._with_open_tokens(adapter_name, result, inputs, gate_value)
        return result + update.update(inputs, parameters, gate_value)

    def _with_open_tokens(
        self, adapter_name: str, result: Tensor, inputs: UpdateInputs, gate_value: GateValue
    ) -> Tensor:
        """As `_with_update`, computing the update of the tokens whose gate is open alone.

        Without any, a graph still gets the parameters, with gradients of zero: distributed
        training waits for every one.
        """
        update, parameters = self.updates[adapter_name], self._factors(adapter_name)
        assert gate_value.logit is not None
        is_open = torch.sigmoid(gate_value.logit) >= gate_value.threshold
        tokens = is_open.any(-1).flatten().nonzero().squeeze(-1)
        if len(tokens) == 0 and not torch.is_grad_enabled():
            return result
        if not gate_value.input_dependent:  # one gate, of the layer
            if len(tokens) == 0:
                return result + update.update(inputs.of(tokens), parameters, gate_value).sum(0)
            return result + update.update(inputs, parameters, gate_value)
        # An open token may have closed channels.
        chosen = gate_value.of(tokens, gate_value.threshold if gate_value.per_channel else 0.0)
        opened = update.update(inputs.of(tokens), parameters, chosen)
        wide = torch.promote_types(result.dtype, opened.dtype)
        flat = result.reshape(-1, result.shape[-1]).to(wide)
        return flat.index_add(0, tokens, opened.to(wide)).view(result.shape)

    def _with_base(self, adapter_name: str, x: Tensor) -> Tensor | None:
        """Base layer and update together, or None where they are computed in parts."""
        update = self.updates[adapter_name]
        if not update.joins_base or self._drops(adapter_name) or not self._is_plain():
            return None
        bias: Any = self.base_layer.bias
        parameters = self._factors(adapter_name)
        inputs = self._inputs(adapter_name, parameters, x, None)
        return update.with_base(inputs, bias, parameters, self._unread_gate(adapter_name, x))

    def _is_plain(self) -> bool:
        """Whether the base layer is its weight and bias: no hooks, no quantization, no adapter."""
        base = self.base_layer
        if type(base) not in (nn.Linear, Conv1D) or "forward" in base.__dict__:
            return False
        if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks:
            return False
        return self.quantization_backend is None

    def _drops(self, adapter_name: str) -> bool:
        """Whether dropout gives the update an input of its own."""
        return self.training and isinstance(self.gatera_dropout[adapter_name], nn.Dropout)

    def _unread_gate(self, adapter_name: str, x: Tensor) -> UnreadGate:
        gate = self.gate_of(adapter_name)
        if gate is None:
            return NO_GATE

        def tell(logit: Tensor) -> None:
            if self.recorder is not None:
                self.recorder.record(self.name, adapter_name, gate, logit, None, 0.0)

        return UnreadGate(
            input_dependent=gate.input_dependent,
            soft=not (gate.per_channel or self._threshold(adapter_name) > 0.0),
            affine=self._affine(adapter_name, gate),
            parameters=gate.parameters,
            read=lambda: self._gate_value(adapter_name, x),
            tell=tell,
        )

    def _affine(self, adapter_name: str, gate: Gate) -> Affine | None:
        """What the gate computes, where it is the layer's own w·x + b, unhooked."""
        affine = gate.affine()
        if affine is None or adapter_name in self.shared_gates:
            return None
        hooked = gate._forward_hooks or gate._forward_pre_hooks or gate._backward_hooks
        return None if hooked or "forward" in gate.__dict__ else (*affine, gate.temperature)

    def _inputs(
        self, adapter_name: str, p: Parameters, x: Tensor, base: Tensor | None
    ) -> UpdateInputs:
        """What an update is computed from.

        Args:
            adapter_name: The adapter.
            p: The parameters of its update.
            x: The layer's input.
            base: The base layer's output for x; None where it was not computed.
        """
        W: Weight | None = None
        if self.updates[adapter_name].needs_weight:
            packed = self.quantization_backend is not None
            W = self.oriented_weight if packed else self.oriented_weight()
        dropout: Any = self.gatera_dropout[adapter_name]
        dropped = dropout(x)

        def base_without_bias() -> Tensor:
            if dropped is not x and isinstance(W, Tensor):
                return F.linear(dropped, W.to(x.dtype))
            y = self._base(dropped) if base is None or dropped is not x else base
            bias = self.base_bias()
            return y if bias is None else y - bias

        parameters = tuple(p.values())
        cast_to = parameters[0].dtype if self.cast_input_dtype_enabled else None
        if not isinstance(W, Tensor) or not self._evaluates():
            return UpdateInputs(dropped, W, base_without_bias, None, cast_to)

        def cached(key: str, build: Callable[[], Tensor], others: Iterable[Tensor] = ()) -> Tensor:
            return products.get(self, (adapter_name, key), (W, *parameters, *others), build)

        return UpdateInputs(dropped, W, base_without_bias, cached, cast_to)

    def train(self, mode: bool = True) -> GateraLinear:
        """Training changes the weights, so products kept for evaluation go."""
        if mode:
            products.discard(self)
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GateraLinear:
        """A move or a cast replaces the weights, which kept products would hold on to."""
        products.discard(self)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __repr__(self) -> str:
        return "gatera." + super().__repr__()

    def extra_repr(self) -> str:
        return str(quantization_extra_repr(self))
