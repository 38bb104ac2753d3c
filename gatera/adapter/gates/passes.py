"""The forward pass that a model is in, for gates that look at the tokens before.

A layer sees neither the padding nor the key-value cache. Hooks on the model read both from the
arguments of its forward pass; what such gates keep of earlier tokens is stored on the cache
object itself, so that it is copied, reordered for beams, and dropped with it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gatera.adapter.gates.masks import (
    cached_tokens,
    check_rows_are_sequences,
    named_arguments,
    real_tokens,
)
from gatera.errors import InputError

_STATES = "_gatera_gate_states"  # attribute of a cache: {place: (keys, scores)}
_REARRANGEMENTS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "reorder_cache": lambda state, index: state.index_select(0, index.to(state.device)),
    "batch_repeat_interleave": lambda state, repeats: state.repeat_interleave(repeats, dim=0),
    "batch_select_indices": lambda state, index: state[index, ...],
}

States = dict[str, tuple[Tensor, Tensor]]


class ForwardPass:
    """What the model's forward pass was called with; one for each model, fed by its hooks."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None  # (batch, tokens so far), nonzero where real
        self._cached = 0
        self._unchecked: dict[str, Any] | None = None  # arguments that no gate has looked at yet
        self._states: States | None = None
        self._awaits_backward = False  # a pass with a graph, not yet computed again
        self._several_masks = False  # another pass with another mask came on top of such a one

    def listen(self, model: nn.Module) -> None:
        """Put the hooks on the model."""
        model.register_forward_pre_hook(self.begin, with_kwargs=True)
        model.register_forward_hook(self.end, with_kwargs=True, always_call=True)

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the arguments of a pass that begins; the model's forward pre-hook."""
        arguments = named_arguments(module, args, kwargs)
        cache = arguments.get("past_key_values")
        mask = real_tokens(arguments)
        if torch.is_grad_enabled():
            self._several_masks = self._awaits_backward and _differ(mask, self.mask)
            self._awaits_backward = True
        self.mask = mask
        self._unchecked = arguments
        self._cached = cached_tokens(arguments)
        self._states = _states_of(cache) if cache is not None else {}
        if not self._cached:
            self._states.clear()  # what a cache held before it was emptied

    def end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Hand the states to the cache that the pass made; the model's forward hook."""
        made = getattr(output, "past_key_values", None)
        if made is not None and self._states and getattr(made, _STATES, None) is None:
            _attach(made, self._states)
        self._states = self._unchecked = None

    @contextlib.contextmanager
    def under(self, mask: Tensor | None) -> Iterator[None]:
        """Run a part of a pass without a cache again, under the mask that it had."""
        before = self.mask, self._cached, self._states
        self.mask, self._cached, self._states = mask, 0, {}
        try:
            yield
        finally:
            self.mask, self._cached, self._states = before

    def extended(
        self, place: str, keys: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put what a gate kept of the cached tokens before what it has of the new ones.

        Args:
            place: Which gate, by its place in the model and its adapter.
            keys: Of the new tokens, (batch, new, hidden).
            scores: Of the new tokens, (batch, new, 1).

        Returns:
            Keys and scores of all tokens, and which are real, (batch, all); None means all.

        Raises:
            InputError: the cache, the mask or the input does not fit the gates.
        """
        self._check_arguments()
        if self._states is None:
            self._check_recomputation()
        elif self._cached:
            before = self._cached_state(place)
            keys = torch.cat([before[0].to(keys.dtype), keys], dim=1)
            scores = torch.cat([before[1].to(scores.dtype), scores], dim=1)
        if self._states is not None:
            self._states[place] = (keys.detach(), scores.detach())
        return keys, scores, self._real(keys)

    def _cached_state(self, place: str) -> tuple[Tensor, Tensor]:
        assert self._states is not None
        state = self._states.get(place)
        if state is None or state[0].shape[1] < self._cached:
            known = 0 if state is None else state[0].shape[1]
            raise InputError(
                f"the key-value cache holds {self._cached} tokens, and the attention gate of "
                f"{place} saw {known} of them: the cache was filled with another adapter, with "
                "this one disabled, or was copied without its gates. Fill the cache with this "
                "adapter active, or pass use_cache=False."
            )
        keys, scores = state  # longer where the cache has been cropped since
        return keys[:, : self._cached], scores[:, : self._cached]

    def _real(self, keys: Tensor) -> Tensor | None:
        if self.mask is None:
            return None
        real = self.mask.to(keys.device) != 0
        if real.shape != keys.shape[:2]:
            raise InputError(
                f"the attention mask covers tokens {tuple(real.shape)}, an attention gate sees "
                f"{tuple(keys.shape[:2])}. Attention gates need layers that see every token of "
                "each sequence in order: no experts, no packed tokens, no cross-attention, no "
                "adapter_names; exclude the others by exclude_modules, or use gate='mlp'."
            )
        return real

    def _check_arguments(self) -> None:
        """Once in a pass, and in those alone in which an attention gate acts."""
        if self._unchecked is not None:
            check_rows_are_sequences(self._unchecked, self.mask)
            self._unchecked = None

    def _check_recomputation(self) -> None:
        """Under gradient checkpointing a layer runs again, after the pass and with its mask.

        Raises:
            InputError: passes with other masks lie between, so that the mask may be wrong.
        """
        self._awaits_backward = False
        if self._several_masks:
            raise InputError(
                "several forward passes with different attention masks came before one backward "
                "pass under gradient checkpointing, where an attention gate cannot tell which "
                "mask it is computed again for. Call backward() after each forward pass, or turn "
                "gradient checkpointing off."
            )

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model, made between two passes, has nothing of the last one."""
        return {**self.__dict__, "mask": None, "_cached": 0, "_unchecked": None, "_states": None}


def forward_pass_of(model: nn.Module) -> ForwardPass:
    """Return the listener to the model's forward passes; a new one listens from now on."""
    for hook in model._forward_pre_hooks.values():
        listener = getattr(hook, "__self__", None)
        if isinstance(listener, ForwardPass):
            return listener
    listener = ForwardPass()
    listener.listen(model)
    return listener


class Preceding:
    """The tokens before, as one gate at one place sees them."""

    def __init__(self, forward_pass: ForwardPass, place: str) -> None:
        self._forward_pass = forward_pass
        self._place = place

    def extended(self, keys: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `ForwardPass.extended`, at this place."""
        return self._forward_pass.extended(self._place, keys, scores)


def preceding_at(forward_pass: ForwardPass | None, place: str) -> Preceding | None:
    """Return the view of one gate; None where no gate of the model looks back."""
    return None if forward_pass is None else Preceding(forward_pass, place)


def _states_of(cache: Any) -> States:
    if getattr(cache, _STATES, None) is None:
        _attach(cache, {})
    states: States = getattr(cache, _STATES)
    return states


def _attach(cache: Any, states: States) -> None:
    """Store the states on the cache, and rearrange them whenever it is rearranged."""
    setattr(cache, _STATES, states)
    for name in _REARRANGEMENTS:
        if hasattr(cache, name):
            setattr(cache, name, functools.partial(_rearrange, cache, name))


def _rearrange(cache: Any, name: str, argument: Any) -> None:
    getattr(type(cache), name)(cache, argument)
    change = _REARRANGEMENTS[name]
    states: States = getattr(cache, _STATES)
    for place, state in states.items():
        states[place] = (change(state[0], argument), change(state[1], argument))


def _differ(mask: Tensor | None, other: Tensor | None) -> bool:
    if mask is None or other is None:
        return mask is not other
    if mask.shape != other.shape or mask.device != other.device:
        return True
    return not torch.equal(mask, other)
