"""The Triton kernel of `fused`. Importing it needs triton; nothing else here does."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS, TILE_COLUMNS, WARPS = 64, 128, 4


@triton.jit  # type: ignore[untyped-decorator]
def _hadamard(  # type: ignore[no-untyped-def]
    W,
    A,
    B,
    out,
    rows,
    columns,
    rank,
    shift,
    W_row,
    W_column,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    TILE_RANK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles_across = tl.cdiv(columns, TILE_COLUMNS)
    tile = tl.program_id(0)
    i = (tile // tiles_across) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    j = (tile % tiles_across) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    k = tl.arange(0, TILE_RANK)
    # Offsets of large matrices leave 32 bits.
    i, j, k = i.to(tl.int64), j.to(tl.int64), k.to(tl.int64)
    inside_i, inside_j, inside_k = i < rows, j < columns, k < rank
    b = tl.load(
        B + i[:, None] * rank + k[None, :],
        mask=inside_i[:, None] & inside_k[None, :],
        other=0.0,
    )
    a = tl.load(
        A + k[:, None] * columns + j[None, :],
        mask=inside_k[:, None] & inside_j[None, :],
        other=0.0,
    )
    inside = inside_i[:, None] & inside_j[None, :]
    w = tl.load(W + i[:, None] * W_row + j[None, :] * W_column, mask=inside, other=0.0)
    factor = tl.dot(b, a, input_precision=PRECISION) + shift
    value = factor * w.to(tl.float32)
    tl.store(out + i[:, None] * columns + j[None, :], value.to(out.dtype.element_ty), mask=inside)


def launch(
    W: Tensor, A: Tensor, B: Tensor, out: Tensor, shift: float, tile_rank: int, **meta: Any
) -> None:
    """Fill `out` with W ⊙ (shift + BA), (out, in); A and B share their type.

    All but W are contiguous: every stride is one more argument, and a launch takes as long as a
    few of torch's own.

    `tile_rank` is the rank that a tile's product is made for, r or more; `meta` replaces the tiles'
    other sizes and the number of warps.
    """
    rows, columns = W.shape
    rank = A.shape[0]
    tile_rows = meta.pop("tile_rows", TILE_ROWS)
    tile_columns = meta.pop("tile_columns", TILE_COLUMNS)
    grid = (triton.cdiv(rows, tile_rows) * triton.cdiv(columns, tile_columns),)
    _hadamard[grid](
        W,
        A,
        B,
        out,
        rows,
        columns,
        rank,
        shift,
        *W.stride(),
        TILE_ROWS=tile_rows,
        TILE_COLUMNS=tile_columns,
        TILE_RANK=tile_rank,
        # In float32 as exact as the plain product is unless torch was told otherwise.
        PRECISION="ieee" if A.dtype == torch.float32 else "tf32",
        num_warps=meta.pop("warps", WARPS),
    )
