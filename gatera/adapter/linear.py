"""The adapted linear layer: how base layer, update and gate are put together in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.utils.quantization_utils import quantization_extra_repr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.pytorch_utils import Conv1D

from gatera.adapter.config import GateraConfig
from gatera.adapter.gates.base import Gate
from gatera.adapter.kernels.cache import products
from gatera.adapter.kernels.functional import Weight, linear_dtype
from gatera.adapter.kernels.hadamard import (
    folded_hadamard_linear,
    folded_weight,
    gated_hadamard_layer,
    token_gated_hadamard_layer,
)
from gatera.adapter.kernels.low_rank import token_gated_low_rank
from gatera.adapter.layer import GateraLayer
from gatera.adapter.updates.base import Delta, Gated, Given, layer_scaled
from gatera.errors import InputError

AffineGate = tuple[Gate, Tensor, Tensor]
"""A gate whose logit is w·x + b, with w and b."""


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
        if len(names) == 1 and not args and not kwargs and self._runs_as_one(names[0]):
            return self._joint_forward(names[0], x)
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
        update = self.updates[adapter_name]
        affine = None if rows is not None else self._gate_of_low_rank(adapter_name)
        if affine is not None:
            return result + self._token_gated_low_rank(adapter_name, affine, x)
        gated = self._gated(adapter_name, x, rows)
        given = self._given(adapter_name, update, x, base)
        if gated.threshold > 0.0 and update.costly and not torch.compiler.is_compiling():
            return self._with_open_tokens(adapter_name, result, given, gated)
        return result + update.update(given, self._factors(adapter_name), gated)

    def _with_open_tokens(
        self, adapter_name: str, result: Tensor, given: Given, gated: Gated
    ) -> Tensor:
        """As `_with_update`, computing the update of the tokens whose gate is open alone.

        Without any, a graph still gets the parameters, with gradients of zero: distributed
        training waits for every one.
        """
        update, parameters = self.updates[adapter_name], self._factors(adapter_name)
        assert gated.logit is not None
        is_open = torch.sigmoid(gated.logit) >= gated.threshold
        tokens = is_open.any(-1).flatten().nonzero().squeeze(-1)
        if len(tokens) == 0 and not torch.is_grad_enabled():
            return result
        if not gated.input_dependent:  # one gate, of the layer
            if len(tokens) == 0:
                return result + update.update(given.of(tokens), parameters, gated).sum(0)
            return result + update.update(given, parameters, gated)
        # An open token may have closed channels.
        chosen = gated.of(tokens, gated.threshold if gated.per_channel else 0.0)
        opened = update.update(given.of(tokens), parameters, chosen)
        wide = torch.promote_types(result.dtype, opened.dtype)
        flat = result.reshape(-1, result.shape[-1]).to(wide)
        return flat.index_add(0, tokens, opened.to(wide)).view(result.shape)

    def _gate_of_low_rank(self, adapter_name: str) -> AffineGate | None:
        """The gate whose arithmetic can join that of a LoRA update, which both read the same x."""
        if not self.updates[adapter_name].joins_gate() or self._threshold(adapter_name) > 0.0:
            return None
        if self.training and isinstance(self.gatera_dropout[adapter_name], nn.Dropout):
            return None
        return self._affine_gate(adapter_name)

    def _token_gated_low_rank(self, adapter_name: str, affine: AffineGate, x: Tensor) -> Tensor:
        gate, w, b = affine
        A, B = self.gatera_A[adapter_name], self.gatera_B[adapter_name]
        dtype = linear_dtype(x)
        if self.cast_input_dtype_enabled and not torch.is_autocast_enabled(x.device.type):
            dtype = A.dtype
        scaling = self.scaling[adapter_name]
        y, logit = token_gated_low_rank(x, A, B, w, b, gate.temperature, scaling, dtype)
        if self.recorder is not None:
            self.recorder.record(self.name, adapter_name, gate, logit, None, 0.0)
        return y

    def _given(self, adapter_name: str, update: Delta, x: Tensor, base: Tensor) -> Given:
        W: Weight | None = None
        if update.needs_weight:
            packed = self.quantization_backend is not None
            W = self.oriented_weight if packed else self.oriented_weight()
        dropout: Any = self.gatera_dropout[adapter_name]
        dropped = dropout(x)

        def base_without_bias() -> Tensor:
            if dropped is not x and isinstance(W, Tensor):
                return F.linear(dropped, W.to(x.dtype))
            y = base if dropped is x else self._base(dropped)
            bias = self.base_bias()
            return y if bias is None else y - bias

        parameters = tuple(self._factors(adapter_name).values())
        cast_to = parameters[0].dtype if self.cast_input_dtype_enabled else None
        if not isinstance(W, Tensor) or not self._evaluates():
            return Given(dropped, W, base_without_bias, None, cast_to)

        def remember(key: str, build: Callable[[], Tensor]) -> Tensor:
            return products.get(self, (adapter_name, key), (W, *parameters), build)

        return Given(dropped, W, base_without_bias, remember, cast_to)

    def _runs_as_one(self, adapter_name: str) -> bool:
        """Whether base layer and update can be computed together.

        Not where the base layer is more than its weight and bias (hooks, quantization, another
        adapter inside), nor where dropout gives the update an input of its own.
        """
        if not self.updates[adapter_name].joins_base() or self.quantization_backend is not None:
            return False
        gate = self.gate_of(adapter_name)
        if gate is not None and (gate.per_channel or self._threshold(adapter_name) > 0.0):
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
        W = self.oriented_weight()
        A, B = self.gatera_A[adapter_name], self.gatera_B[adapter_name]
        bias: Any = self.base_layer.bias
        affine = None if self._evaluates() else self._affine_gate(adapter_name)
        if affine is not None:
            gate, w, b = affine
            y, logit = token_gated_hadamard_layer(x, W, bias, A, B, w, b, gate.temperature)
            if self.recorder is not None:
                self.recorder.record(self.name, adapter_name, gate, logit, None, 0.0)
            return y
        gated = self._gated(adapter_name, x)
        dtype = linear_dtype(x)
        # In low precision 1 + BA would round small updates away.
        exact = A.dtype == W.dtype == dtype and dtype in (torch.float32, torch.float64)
        if exact and not gated.input_dependent:
            return self._folded_forward(adapter_name, x, W, bias, A, layer_scaled(B, gated))
        if self._evaluates():
            base = self._base(x)
            given = self._given(adapter_name, self.updates[adapter_name], x, base)
            return base + self.updates[adapter_name].update(
                given, self._factors(adapter_name), gated
            )
        if gated.input_dependent:
            return gated_hadamard_layer(x, W, bias, A, B, gated.logit)
        return gated_hadamard_layer(x, W, bias, A, layer_scaled(B, gated), None)

    def _affine_gate(self, adapter_name: str) -> AffineGate | None:
        """The gate whose arithmetic can join the layer's: the layer's own w·x + b, unhooked."""
        gate = self.gate_of(adapter_name)
        affine = None if gate is None else gate.affine()
        if gate is None or affine is None or adapter_name in self.shared_gates:
            return None
        hooked = gate._forward_hooks or gate._forward_pre_hooks or gate._backward_hooks
        return None if hooked or "forward" in gate.__dict__ else (gate, *affine)

    def _folded_forward(
        self, adapter_name: str, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor
    ) -> Tensor:
        """One product with W ⊙ (1 + BA); in evaluation that weight may be at hand."""
        if not self._evaluates():
            return folded_hadamard_linear(x, W, bias, A, B)
        weight = products.get(
            self,
            (adapter_name, "folded"),
            (W, A, self.gatera_B[adapter_name], *self._layer_gate_parameters(adapter_name)),
            lambda: folded_weight(W, A, B),
        )
        return F.linear(x, weight, bias)

    def _layer_gate_parameters(self, adapter_name: str) -> tuple[Tensor, ...]:
        gate = self.gate_of(adapter_name)
        return () if gate is None else tuple(gate.parameters())

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
