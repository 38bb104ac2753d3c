"""Reading the gates: the entropy of a forward pass, and statistics over one or many.

Layers hand the logits of their gates to a recorder only while one listens. The recorder learns
which tokens are real from the arguments of the model's own forward pass, since no layer sees the
padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gatera.adapter.finding import (
    adapted_layers,
    base_model,
    encoder_modules,
    is_encoder_decoder,
)
from gatera.adapter.gates.masks import (
    cached_tokens,
    fed_tokens,
    mask_of_new_tokens,
    named_arguments,
    real_tokens,
)
from gatera.adapter.kernels.functional import binary_entropy
from gatera.adapter.reading.statistics import GateStatistics
from gatera.errors import InputError

Key = tuple[str, str]  # name of the layer or block in the base model, name of the adapter

PROMPT, DECODED = "prompt", "decoded"
PARTS = (PROMPT, DECODED)

_ONE_SIDE = (
    "give record_gates(model, attention_mask=...) the mask of the tokens that the adapted layers "
    "see."
)
_TWO_SIDES = (
    "this model is an encoder-decoder, whose layers see the tokens of two sequences. Adapt layers "
    "that see the same one (such as target_modules=r'encoder\\..*\\.(q|v)', or the decoder's "
    "without the keys and values of its cross-attention) and give record_gates(model, "
    "attention_mask=...) its mask; or call the model without masks, where nothing is padded."
)


@contextmanager
def record_gates(model: nn.Module, attention_mask: Tensor | None = None) -> Iterator[GateRecorder]:
    """Record the gates of all forward passes of `model` inside the context.

    ```python
    with record_gates(model) as gates:
        loss = model(**batch).loss
    loss = loss + 0.01 * gates.entropy()
    ```

    Args:
        model: A model with GateRA adapters, or without: then there is nothing to record.
        attention_mask: Which tokens are real, (batch, tokens), nonzero where real; None means
            the `attention_mask` that each forward pass gets, and where it gets none, that all
            tokens are real.

    Raises:
        InputError: the model is being recorded already.
    """
    recorder = GateRecorder(model, attention_mask)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


class GateRecorder:
    """What `record_gates` yields; readable inside the context and after it.

    Holds the logits of the last forward pass, with their graph, and sums over those before it.
    """

    def __init__(self, model: nn.Module, attention_mask: Tensor | None) -> None:
        self._model = base_model(model)
        self._layers = [layer for _, layer in adapted_layers(model) if layer.has_gate]
        self._given_mask = attention_mask
        self._handle: Any = None
        self._passes = 0
        self._earlier: dict[str, GateStatistics] = {part: GateStatistics() for part in PARTS}
        self._part = PROMPT
        self._logits: dict[Key, Tensor] = {}
        self._rows: dict[Key, list[int]] = {}
        self._thresholds: dict[Key, float] = {}
        self._mask: Tensor | None = attention_mask
        self._sees_decoder = is_encoder_decoder(self._model) and self._has_gates_outside_encoder()
        self._wants_graph = False

    def start(self) -> None:
        """Begin to listen."""
        if any(layer.recorder is not None for layer in self._layers):
            raise InputError(
                "the gates of this model are being recorded already; record_gates() contexts "
                "cannot be nested, so leave the outer one first."
            )
        if not self._layers:
            return
        for layer in self._layers:
            layer.recorder = self
        self._handle = self._model.register_forward_pre_hook(_PassHook(self), with_kwargs=True)

    def stop(self) -> None:
        """Leave the model as it was; what was recorded stays readable."""
        for layer in self._layers:
            if layer.recorder is self:
                del layer.recorder
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def record(
        self,
        place: str,
        adapter_name: str,
        gate: nn.Module,
        logit: Tensor,
        rows: list[int] | None,
        threshold: float,
    ) -> None:
        """Take the logit of one gate; called by the layer.

        A second logit of the same gate in the same pass replaces the first: under gradient
        checkpointing a layer runs again during the backward pass.

        Args:
            place: Where the gate is: the layer, or the block whose layers share it.
            adapter_name: Its adapter.
            gate: The gate.
            logit: What it returned.
            rows: Which examples of the batch the logit is of; None means all.
            threshold: The value below which the gate counts as closed; 0 closes none.

        Raises:
            InputError: the logit has lost its graph to reentrant gradient checkpointing.
        """
        if self._wants_graph and not torch.is_grad_enabled():
            _refuse_lost_graph(gate)
        key = (place, adapter_name)
        self._logits[key] = logit
        self._thresholds[key] = threshold
        if rows is not None:
            self._rows[key] = rows

    def entropy(self) -> Tensor:
        """Entropy of the gates of the last forward pass, in nats, with its gradient.

        The mean over the real tokens of each gated module, then over the gated modules; a static
        gate's is the entropy of its one value. 0 where nothing is gated.

        Returns:
            A scalar tensor in [0, log 2].

        Raises:
            InputError: no forward pass was recorded, or the mask does not fit the tokens.

        Source: the regularizer of GateRA, arXiv:2511.17582.
        """
        if self._layers:
            self._require_pass()
        means = [
            _masked_mean(binary_entropy(logits), counted)
            for _, logits, counted in self._grouped(tokens=None)
        ]
        return torch.cat(means).mean() if means else self._zero()

    def statistics(
        self, tokens: Tensor | None = None, part: str | None = None
    ) -> dict[str, dict[str, float]]:
        """Return {module: {mean, share_below_0.1, share_above_0.9, entropy}} over real tokens.

        A gate that the layers of a block share stands under the name of the block; the gates of
        a layer's channels count as so many values a token. With `gate_threshold` in effect there
        is a fifth entry, "share_skipped".

        Args:
            tokens: Count only these tokens, (batch, tokens), nonzero where counted, and of the
                last forward pass only; None counts all real tokens of all passes recorded.
            part: "decoded" for the passes that feed one token onto a key-value cache, as
                `generate` does after the first; "prompt" for all others; None for both. Beams
                and sampled sequences count as so many examples.

        Raises:
            InputError: the mask does not fit the tokens, or `part` is unknown.
        """
        return self._gathered(tokens, part).modules()

    def overall(self, tokens: Tensor | None = None, part: str | None = None) -> dict[str, float]:
        """Return the means over modules of what `statistics` returns; empty without gates."""
        return self._gathered(tokens, part).overall()

    def add_to(self, statistics: GateStatistics, tokens: Tensor | None = None) -> None:
        """Add the last forward pass to `statistics`; `tokens` as in `statistics()`."""
        for keys, logits, counted in self._grouped(tokens):
            threshold = self._thresholds[keys[0]]
            statistics.add([name for name, _ in keys], logits.detach(), counted, threshold)

    def _gathered(self, tokens: Tensor | None, part: str | None) -> GateStatistics:
        if part is not None and part not in PARTS:
            raise InputError(f"part={part!r} is not known; choose one of: {', '.join(PARTS)}.")
        gathered = GateStatistics()
        for earlier_part, earlier in self._earlier.items():
            if tokens is None and part in (None, earlier_part):
                gathered.add_all(earlier)
        if part in (None, self._part):
            self.add_to(gathered, tokens)
        return gathered

    def begin_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a new forward pass begins, with these arguments; called by the model's hook."""
        self.add_to(self._earlier[self._part])
        self._logits.clear()
        self._rows.clear()
        self._passes += 1
        self._wants_graph = torch.is_grad_enabled()
        arguments = named_arguments(module, args, kwargs)
        mask = self._given_mask
        if mask is None:
            mask = self._mask_from(arguments)
        cached = cached_tokens(arguments) > 0
        self._mask = mask_of_new_tokens(module, arguments, mask) if cached else mask
        self._part = DECODED if cached and fed_tokens(arguments) == 1 else PROMPT

    def _has_gates_outside_encoder(self) -> bool:
        """Whether a gate of the token lies outside of the encoder."""
        encoder = encoder_modules(self._model)
        outside = [layer for layer in self._layers if id(layer) not in encoder]
        return any(layer.gate_depends_on_input(name) for layer in outside for name in layer.updates)

    def _mask_from(self, arguments: dict[str, Any]) -> Tensor | None:
        masks = [arguments.get(name) for name in ("attention_mask", "decoder_attention_mask")]
        if self._sees_decoder and any(mask is not None for mask in masks):
            raise InputError(f"which mask is that of the recorded gates is not known: {_TWO_SIDES}")
        return real_tokens(arguments)

    def _grouped(self, tokens: Tensor | None) -> list[tuple[list[Key], Tensor, Tensor | None]]:
        """The last pass's logits, stacked by shape, each group with the values that count.

        Returns:
            (keys, logits (modules, *values), counted (*values) or None for all) for each shape;
            values are tokens, or tokens and their channels.
        """
        groups: dict[Any, list[Key]] = {}
        for key, logit in self._logits.items():
            rows = self._rows.get(key)
            kind = (logit.shape, self._thresholds[key], tuple(rows) if rows else None)
            groups.setdefault(kind, []).append(key)
        result: list[tuple[list[Key], Tensor, Tensor | None]] = []
        for (_, _, rows), keys in groups.items():
            logits = torch.stack([self._logits[key] for key in keys])
            if logits.dim() == 2:  # (modules, 1): gates of the layer, which no mask concerns
                result.append((keys, logits, None))
                continue
            counted = self._counted(logits[..., 0], rows, tokens)
            if counted is not None:
                counted = counted.unsqueeze(-1).expand(logits.shape[1:])
            result.append((keys, logits, counted))
        return result

    def _counted(
        self, logits: Tensor, rows: tuple[int, ...] | None, tokens: Tensor | None
    ) -> Tensor | None:
        counted = None
        for name, mask in (("attention_mask", self._mask), ("tokens", tokens)):
            if mask is None:
                continue
            chosen = (mask[list(rows)] if rows else mask).to(logits.device) != 0
            if chosen.shape != logits.shape[1:]:
                advice = _TWO_SIDES if is_encoder_decoder(self._model) else _ONE_SIDE
                raise InputError(
                    f"{name} covers tokens {tuple(chosen.shape)}, the recorded gates cover "
                    f"{tuple(logits.shape[1:])}; {advice}"
                )
            counted = chosen if counted is None else counted & chosen
        return counted

    def _zero(self) -> Tensor:
        parameter = next(self._model.parameters(), None)
        return torch.zeros((), device=None if parameter is None else parameter.device)

    def _require_pass(self) -> None:
        if self._passes == 0:
            raise InputError(
                "no forward pass was recorded; call the model inside the record_gates() context, "
                "then ask for the entropy."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A model that is copied while it is recorded gives a copy that is not."""
        return


class _PassHook:
    """The forward pre-hook of a recorder; on a copy of the model it does nothing."""

    def __init__(self, recorder: GateRecorder | None) -> None:
        self.recorder = recorder

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.recorder is not None:
            self.recorder.begin_pass(module, args, kwargs)


def _masked_mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean over tokens: (modules, *tokens) -> (modules,); 0 where no token counts."""
    values = values.flatten(1)
    if counted is None:
        return values.mean(1)
    weights = counted.flatten().to(values.dtype)
    return (values * weights).sum(1) / weights.sum().clamp(min=1)


def _refuse_lost_graph(gate: nn.Module) -> None:
    if any(parameter.requires_grad for parameter in gate.parameters()):
        raise InputError(
            "the gates are recorded in a part of the model that runs without a graph although "
            "gradients are wanted, as gradient checkpointing with use_reentrant=True does; the "
            "entropy would have no gradient. Call "
            "gradient_checkpointing_enable(gradient_checkpointing_kwargs="
            "{'use_reentrant': False})."
        )
