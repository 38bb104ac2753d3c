"""W ⊙ (c + BA) in one pass over W, on a CUDA device with Triton.

Written with separate operations, BA goes to memory and comes back before it meets W; beside the
products of a short batch that costs as much as one of them. Here a tile of BA is made in registers,
multiplied by its tile of W, and rounded once.

Triton comes with torch's CUDA builds. Without it, or where it cannot compile (it needs a C
compiler), the caller takes the plain path.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)

_DTYPES = {torch.bfloat16, torch.float16, torch.float32}
_MOST_RANK = 128  # whose tiles still fit in a multiprocessor
# Of W. Below, the kernel's launch takes longer than it saves; where the factors are of another
# type, as a rule a wider one, the separate operations write BA in that type, and it saves more.
_LEAST_ELEMENTS, _LEAST_ELEMENTS_OF_MIXED_TYPES = 2**25, 2**23

_disabled = False


@contextmanager
def disabled() -> Iterator[None]:
    """Take the plain path inside the context: to compare, or where the kernel is suspected."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before


def hadamard(W: Tensor, A: Tensor, B: Tensor, dtype: torch.dtype, shift: float) -> Tensor | None:
    """Return W ⊙ (shift + BA) in `dtype`, (out, in), or None where this way is not open.

    Args:
        W: (out, in), of any strides.
        A: (r, in), in the type of B.
        B: (out, r).
        dtype: Of the result.
        shift: 0 for the update alone, 1 for it and the base weight together.
    """
    if not _applies(W, A, B, dtype):
        return None
    tile_rank = _tile_rank(A.shape[0])
    launch = _launcher(W.device, W.dtype, A.dtype, dtype, tile_rank)
    if launch is None:
        return None
    out = torch.empty(W.shape, dtype=dtype, device=W.device)
    here = W.device.index == torch.cuda.current_device()
    with nullcontext() if here else torch.cuda.device(W.device):
        launch(W, A, B, out, shift, tile_rank)
    return out


def _tile_rank(rank: int) -> int:
    """The rank that a tile's product is made for: a power of two, and what such products take."""
    return max(16, 1 << (rank - 1).bit_length())


def _applies(W: Tensor, A: Tensor, B: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernel computes these tensors; it has no derivative and no compiled form."""
    if W.device.type != "cuda" or torch.version.hip is not None or _disabled:
        return False
    same_type = A.dtype == W.dtype
    if W.numel() < (_LEAST_ELEMENTS if same_type else _LEAST_ELEMENTS_OF_MIXED_TYPES):
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False  # a traced graph would hold the empty result alone
    if not all(type(tensor) in (Tensor, nn.Parameter) for tensor in (W, A, B)):
        return False  # a subclass, such as a sharded tensor, has no memory of that shape
    if not W.device == A.device == B.device or A.dtype != B.dtype:
        return False
    if not A.is_contiguous() or not B.is_contiguous() or A.shape[0] > _MOST_RANK:
        return False
    return {W.dtype, A.dtype, dtype} <= _DTYPES


@functools.cache
def _launcher(
    device: torch.device,
    base: torch.dtype,
    factors: torch.dtype,
    result: torch.dtype,
    tile_rank: int,
) -> Callable[..., None] | None:
    """The kernel's launcher, or None where Triton is missing or cannot compile for these types.

    Tried once for each, on a small product: what compiles for one may not for another.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from gatera.adapter.kernels.fused_kernel import launch

        W = torch.ones(1, 1, device=device, dtype=base)
        A, B = W.new_ones(tile_rank, 1, dtype=factors), W.new_ones(1, tile_rank, dtype=factors)
        with torch.cuda.device(device):
            launch(W, A, B, torch.empty_like(W, dtype=result), 0.0, tile_rank)
    except Exception as error:  # whatever a compiler that is not whole raises
        _log.warning(
            "Triton cannot compile for %s on %s (%s: %s), so W ⊙ (BA) is built by separate "
            "operations: slower, and as right.",
            base,
            device,
            type(error).__name__,
            next(iter(str(error).splitlines()), "no message"),
        )
        return None
    return launch
