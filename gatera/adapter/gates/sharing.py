"""Gates that several layers share: one a transformer block, or one set of weights for all blocks.

A shared gate reads the input of its block, once in a pass, for all adapted layers of the block.
Its parameters lie on the first adapted layer that uses them, the owner, where PEFT saves, loads,
moves and deletes them like any others; the other layers refer to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gatera.adapter.gates.passes import ForwardPass, preceding_at
from gatera.errors import InputError

_CHECKPOINTING = "_gradient_checkpointing_func"  # where transformers keeps that function


class _Run:
    """One run of a block: its input, and the logits made from it."""

    def __init__(self, x: Any) -> None:
        self.x = x
        self.logits: dict[str, Tensor] = {}


class BlockInput:
    """What comes into a block, while it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.forward_pass: ForwardPass | None = None  # where a gate looks at the tokens before
        self._run: _Run | None = None

    def listen(self, block: nn.Module) -> None:
        """Put the hooks on the block."""
        block.register_forward_pre_hook(self.enter, with_kwargs=True)
        block.register_forward_hook(self.leave, always_call=True)

    def enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the block's input; its forward pre-hook.

        transformers checkpoints the forward of a block inside of its hooks, so that they do not
        run again with it: the function that it checkpoints with is made to do that.
        """
        self._run = _Run(args[0] if args else kwargs.get("hidden_states"))
        function = getattr(block, _CHECKPOINTING, None)
        if function is not None and not isinstance(function, _Checkpointing):
            setattr(block, _CHECKPOINTING, _Checkpointing(self, function))

    def leave(self, block: nn.Module, args: Any, output: Any) -> None:
        """Let go of the input and of all that was made from it; the block's forward hook."""
        self._run = None

    @contextlib.contextmanager
    def running(self, run: _Run) -> Iterator[None]:
        """Take `run` for the one that the block is in."""
        before, self._run = self._run, run
        try:
            yield
        finally:
            self._run = before

    def input(self) -> Any:
        """The input of the run that the block is in, or None."""
        return None if self._run is None else self._run.x

    def logit(
        self, adapter_name: str, gate: Any, forward_pass: ForwardPass | None
    ) -> tuple[Tensor, bool]:
        """Return the logit of an adapter's gate, and whether it was computed just now.

        Raises:
            InputError: the block is not running, or its input is no tensor.
        """
        run = self._run
        if run is None or not isinstance(run.x, Tensor):
            raise InputError(
                f"the gate that the layers of {self.name!r} share reads the input of that block, "
                "and there is none: call the model, not a layer of it; a block must take its "
                "input as the first argument or as hidden_states."
            )
        if adapter_name in run.logits:
            return run.logits[adapter_name], False
        place = preceding_at(forward_pass, f"{self.name}.{adapter_name}")
        run.logits[adapter_name] = gate(run.x, place)
        return run.logits[adapter_name], True


class _Checkpointing:
    """The function that a block checkpoints its forward with, run each time as at first.

    Whatever came in between, the forward that runs again during the backward pass sees the input
    and the attention mask of its own pass.
    """

    def __init__(self, block: BlockInput, function: Callable[..., Any]) -> None:
        self.block = block
        self.function = function

    def __call__(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        x = self.block.input()
        forward_pass = self.block.forward_pass
        mask = None if forward_pass is None else forward_pass.mask

        def again(*inputs: Any) -> Any:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self.block.running(_Run(inputs[0] if inputs else x)))
                if forward_pass is not None:
                    stack.enter_context(forward_pass.under(mask))
                return forward(*inputs)

        return self.function(again, *args, **kwargs)


class GateOwner(Protocol):
    """A layer that a shared gate lies on."""

    gatera_gate: nn.ModuleDict  # by the adapter's name


class SharedGate:
    """A layer's part in a shared gate."""

    def __init__(self, block: BlockInput, owner: GateOwner) -> None:
        self.block = block
        self.owner = owner


def block_of(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the transformer block that a module is in: the outermost element of a module list.

    Args:
        model: The base model.
        name: Name of the module in it.

    Raises:
        InputError: the module is in no block.
    """
    parts = name.split(".")
    parent = model
    for depth, part in enumerate(parts[:-1]):
        child = getattr(parent, part)
        if isinstance(parent, (nn.ModuleList, nn.Sequential)):
            return ".".join(parts[: depth + 1]), child
        parent = child
    raise InputError(
        f"target module {name!r} is in no block of the model (no element of a ModuleList holds "
        "it), so it cannot share the gate of one; leave it out by exclude_modules, or use "
        "gate_sharing='module'."
    )


def input_features(model: nn.Module, block: nn.Module) -> int:
    """Return the width of a block's input: the model's hidden size, or its first layer's input."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    size = getattr(config, "hidden_size", None)
    return size if isinstance(size, int) else _first_input(block.modules())


def _first_input(modules: Iterable[nn.Module]) -> int:
    """The input width of the first linear layer; there is one, the adapted layer itself."""
    widths = (getattr(m, "nx" if isinstance(m, Conv1D) else "in_features", None) for m in modules)
    return next(width for width in widths if isinstance(width, int))


def block_input_of(block: nn.Module, name: str) -> BlockInput:
    """Return the block's listener, which all adapters share; a new one listens from now on."""
    for hook in block._forward_pre_hooks.values():
        listener = getattr(hook, "__self__", None)
        if isinstance(listener, BlockInput):
            return listener
    listener = BlockInput(name)
    listener.listen(block)
    return listener


def stop_listening(model: nn.Module) -> None:
    """Take all listeners off the blocks of a model."""
    for module in model.modules():
        function = getattr(module, _CHECKPOINTING, None)
        if isinstance(function, _Checkpointing):
            setattr(module, _CHECKPOINTING, function.function)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [k for k, hook in hooks.items() if _listens(hook)]:
                del hooks[key]
                for marks in (
                    module._forward_pre_hooks_with_kwargs,
                    module._forward_hooks_with_kwargs,
                    module._forward_hooks_always_called,
                ):
                    marks.pop(key, None)


def _listens(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), (BlockInput, ForwardPass))
