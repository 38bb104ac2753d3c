"""The frozen weight of an adapted layer: how it is read, and replaced while updates are merged."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from peft.utils.integrations import dequantize_bnb_weight
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn

from gatera.errors import InputError


@dataclass(frozen=True)
class BeforeMerge:
    """The base weight without any merged update, in its own layout, on the CPU.

    An accelerator would hold it twice for as long as the layer is merged. A 4-bit weight is kept
    packed, with its scales: packing what was unpacked gives other bits where the scales are packed
    too. It stays where it is: it takes an eighth of the memory, and moving it moves the scales of
    the layer's own weight, which it shares.
    """

    stored: Any  # a Tensor, or a parameter of bitsandbytes
    packed: bool

    def weight(self, device: torch.device) -> Tensor:
        """Return the weight, unpacked, on a device."""
        if not self.packed:
            return cast(Tensor, self.stored).to(device)
        return cast(Tensor, dequantize_bnb_weight(self.stored, state=self.stored.quant_state))


class BaseWeightLayer(BaseTunerLayer):  # type: ignore[misc]
    """A layer around a frozen one, quantized or not, whose weight it reads and may replace."""

    def __init__(self, base_layer: nn.Module, fan_in_fan_out: bool, quantization: Any) -> None:
        self.base_layer = base_layer
        self.fan_in_fan_out = fan_in_fan_out
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(), **quantization
        )
        self._before_merge: BeforeMerge | None = None
        self.in_features: int
        self.out_features: int
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())

    def read_in_each_pass(self) -> None:
        """Prepare for reading the weight in each forward pass."""
        _keep_readable(self.get_base_layer())

    def oriented(self, weight: Tensor) -> Tensor:
        """Turn a weight in the base layer's layout into (out, in), or one of those into it."""
        return weight.t() if self.fan_in_fan_out else weight

    def oriented_weight(self) -> Tensor:
        """Return the base weight as (out, in), with its graph where it is trained."""
        quantized = self.quantization_backend is not None
        weight: Tensor = self.get_base_weight() if quantized else self.get_base_layer().weight
        return self.oriented(weight)

    def unmerged_weight(self) -> Tensor:
        """Return the base weight without any merged update, in its own layout, detached."""
        weight = self._stored_weight()
        if self._before_merge is not None:
            weight = self._before_merge.weight(weight.device)
        return weight.detach()

    def replace_weight(self, merged: Tensor) -> None:
        """Put a merged weight, in the base layer's layout, in place of the base layer's own."""
        if self._before_merge is None:
            self._before_merge = self._as_stored()
        self.set_base_weight(merged)

    def restore_weight(self) -> None:
        """Give the base layer its own weight back, bit for bit."""
        assert self._before_merge is not None
        if self._before_merge.packed:
            base: Any = self.get_base_layer()
            base.weight = self._before_merge.stored.to(base.weight.device)
            base.quant_state = base.weight.quant_state
        else:
            merged = self._stored_weight()
            self.set_base_weight(self._before_merge.stored.to(merged.device, merged.dtype))
        self._before_merge = None

    def _stored_weight(self) -> Tensor:
        """The base weight in its own layout, dequantized, detached."""
        _keep_readable(self.get_base_layer())
        weight: Tensor = self.get_base_weight()
        return weight

    def _as_stored(self) -> BeforeMerge:
        """What unmerging gives back, while nothing is merged."""
        weight = getattr(self.get_base_layer(), "weight", None)
        if not hasattr(weight, "quant_state"):
            return BeforeMerge(self._stored_weight().cpu(), packed=False)  # no copy on the CPU
        _keep_readable(self.get_base_layer())
        return BeforeMerge(copy.copy(weight), packed=True)  # PEFT marks the one it replaces

    def base_bias(self) -> Tensor | None:
        """Return the base layer's bias, if it has one."""
        bias: Tensor | None = getattr(self.get_base_layer(), "bias", None)
        return bias

    def parameter_device(self) -> torch.device | None:
        """Return meta where the base weight is, so that huge models are counted without drawing."""
        weight = getattr(self.get_base_layer(), "weight", None)
        return weight.device if weight is not None and weight.device.type == "meta" else None

    def refuse_unreadable_weight(self, delta: str) -> None:
        """Raise where the base weight cannot be read.

        Raises:
            InputError: it is quantized for good, or partitioned over processes.
        """
        backend, base = self.quantization_backend, self.get_base_layer()
        if backend is not None and not backend.supports_merge:
            raise InputError(
                f"delta={delta!r} reads the base weight, and {backend.backend_name} layers "
                f"({type(base).__name__}) cannot give theirs back from its quantized form; use "
                "delta='lora', or a model quantized with bitsandbytes, HQQ or torchao."
            )
        weight = getattr(base, "weight", None)
        if hasattr(weight, "ds_id") or hasattr(weight, "device_mesh"):
            raise InputError(
                f"delta={delta!r} reads the base weight, and this one "
                f"({type(base).__name__}) is partitioned over processes (DeepSpeed ZeRO-3 or "
                "tensor parallelism), so no process holds it whole; use delta='lora', or a "
                "strategy that gathers the weights of a layer, such as FSDP."
            )


def _keep_readable(base_layer: Any) -> None:
    """Keep bitsandbytes from packing a 4-bit weight for the CPU, which PEFT cannot unpack.

    bitsandbytes 0.50 packs it in the first evaluation pass on a processor with AVX512-BF16;
    dequantizing gives other values from then on, without an error. state_dict() unpacks it, but
    leaves scales that were not packed themselves transposed, and in bfloat16.
    """
    if not getattr(base_layer, "support_avx512bf16_for_cpu", False):
        return
    base_layer.support_avx512bf16_for_cpu = False
    base_layer.state_dict()
    state = getattr(base_layer.weight, "quant_state", None)
    if state is not None and state.absmax.dim() == 2:  # (blocks of a row, out)
        state.absmax = state.absmax.t().reshape(-1).float()
