"""The Hadamard layer's arithmetic block by block, without autograd.

D = W ⊙ (BA) costs r products a weight to build, little beside the T products of a forward pass
over T tokens. On a CPU it never exists as a whole: blocks that stay in the processor's cache are
built, multiplied and forgotten. On an accelerator it is built as one, where possible in one pass.
The gradients are those of

    y = identity · W x + bias + g · D x,  identity 0 or 1.

Shapes: rows (tokens, in), d_y (tokens, out), gate and logit (tokens, 1), W (out, in), A (r, in),
B (out, r).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels import fused

Part = slice | None
"""A run of rows or columns of a matrix, or the whole of it."""

# Some 10 MB and more an allocator takes as fresh pages each time, which costs more than the
# arithmetic on them; and what has just been built is best read from the cache.
_BLOCK_ELEMENTS = 2**21
_TOKEN_BLOCK_BYTES = 2**20
_LEAST_COLUMNS = 512  # of a row-major weight: narrower strips are slow to read


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for it: what is summed over many numbers of a type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def logit_dtype(x: Tensor, parameter: Tensor) -> torch.dtype:
    """The type that a gate's logit is computed in: float32, or float64 where an input is."""
    return torch.float64 if torch.float64 in (x.dtype, parameter.dtype) else torch.float32


def as_rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])  # (tokens, features)


def wide_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`weight` x + bias, (tokens, n), in the logit's type; x is widened block by block."""
    dtype = logit_dtype(rows, weight)
    if _result_can_be_wider(rows) and rows.dtype == weight.dtype != dtype:
        y = torch.mm(rows, weight.t(), out_dtype=dtype)  # without a wide copy of x
        return y if bias is None else y.add_(bias)
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    parts = [
        F.linear(_rows_of(rows, part).to(dtype), weight, bias)
        for part in _token_blocks(rows, dtype)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _result_can_be_wider(rows: Tensor) -> bool:
    """Whether a product of narrow numbers can come out in the type that it is summed in."""
    if not rows.is_cuda or torch.version.hip is not None or torch.compiler.is_compiling():
        return False
    return type(rows) in (Tensor, nn.Parameter)  # others may not know such a product


def wide_weight_gradient(d_y: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ_tokens dy xᵀ, (n, in), summed in the type of dy and then cast to the weight's `dtype`.

    On CUDA dy is rounded first where all is bfloat16, whose range is that of float32.
    """
    if _result_can_be_wider(rows) and rows.dtype == dtype == torch.bfloat16:
        narrow = d_y.to(dtype).t()
        return torch.mm(narrow, rows, out_dtype=d_y.dtype).to(dtype)  # no wide copy of x
    parts = [
        torch.mm(_rows_of(d_y, part).t(), _rows_of(rows, part).to(d_y.dtype))
        for part in _token_blocks(rows, d_y.dtype)
    ]
    return (parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)).to(dtype)


def _token_blocks(rows: Tensor, dtype: torch.dtype) -> list[Part]:
    """Blocks of tokens whose copies in `dtype` stay in the processor's cache; one for no copy."""
    if rows.dtype == dtype:
        return [None]
    return _blocks(rows.shape[0], rows.shape[1], rows, _TOKEN_BLOCK_BYTES // dtype.itemsize)


def _blocks(
    length: int, other: int, like: Tensor, elements: int = _BLOCK_ELEMENTS, at_least: int = 1
) -> list[Part]:
    """Cut a matrix's side of `length` (the other side whole) into blocks of so many elements.

    One block on an accelerator, whose allocator reuses memory and whose cache is small, and in a
    compiled graph, where every block would be operations of its own.
    """
    if like.device.type != "cpu" or torch.compiler.is_compiling():
        return [None]
    step = max(at_least, elements // max(1, other))
    if step >= length:
        return [None]
    step = step // 64 * 64 if step > 64 else step  # aligned to the widest registers
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _rows_of(matrix: Tensor, part: Part) -> Tensor:
    # Even a view of the whole takes time, and on an accelerator the processor is what is short.
    return matrix if part is None else matrix[part]


def _columns_of(matrix: Tensor, part: Part) -> Tensor:
    return matrix if part is None else matrix[:, part]


def hadamard_product(W: Tensor, A: Tensor, B: Tensor, dtype: torch.dtype) -> Tensor:
    """Return W ⊙ (BA), (out, in), multiplied in the widest type and then cast to `dtype`."""
    in_one_pass = fused.hadamard(W, A, B, dtype, 0.0)
    if in_one_pass is not None:
        return in_one_pass
    product = torch.mm(B, A)
    if torch.is_grad_enabled() or torch.promote_types(product.dtype, W.dtype) != product.dtype:
        return (product * W).to(dtype)
    return product.mul_(W.to(product.dtype)).to(dtype)


def folded_product(rows: Tensor, W: Tensor, A: Tensor, B: Tensor, bias: Tensor | None) -> Tensor:
    """(W ⊙ (1 + BA)) x + bias, (tokens, out)."""
    blocks = _blocks(W.shape[0], W.shape[1], W)
    if blocks == [None]:
        return F.linear(rows, _block_weight(W, A, B, rows.dtype, 1.0), bias)
    y = rows.new_empty(rows.shape[0], W.shape[0])
    for part in blocks:
        weight = _block_weight(W[part], A, B[part], rows.dtype, 1.0)
        y[:, part] = F.linear(rows, weight, None if bias is None else bias[part])
    return y


def base_product(rows: Tensor, W: Tensor, bias: Tensor | None, identity: float) -> Tensor:
    """identity · W x + bias, (tokens, out)."""
    if identity == 0.0:
        return rows.new_zeros(rows.shape[0], W.shape[0])
    return F.linear(rows, W.to(rows.dtype), None if bias is None else bias.to(rows.dtype))


def add_update(
    y: Tensor, rows: Tensor, W: Tensor, A: Tensor, B: Tensor, gate: Tensor | None
) -> None:
    """Add g · D x to y, (tokens, out); the gate multiplies the narrower of input and output."""
    gate_at_output = gate is not None and W.shape[1] > W.shape[0]
    if gate is not None and not gate_at_output:
        rows = rows * gate
    for part in _blocks(W.shape[0], W.shape[1], W):
        D = hadamard_product(_rows_of(W, part), A, _rows_of(B, part), rows.dtype)  # (block, in)
        if gate_at_output:
            assert gate is not None
            _columns_of(y, part).addcmul_(torch.mm(rows, D.t()), gate)
        else:
            _columns_of(y, part).addmm_(rows, D.t())


def _block_weight(W: Tensor, A: Tensor, B: Tensor, dtype: torch.dtype, identity: float) -> Tensor:
    """identity · W + D in `dtype`."""
    in_one_pass = fused.hadamard(W, A, B, dtype, identity)
    if in_one_pass is not None:
        return in_one_pass
    D = hadamard_product(W, A, B, dtype)
    return D if identity == 0.0 else D.add_(W.to(dtype))


def input_gradient(
    d_y: Tensor, rows: Tensor, W: Tensor, A: Tensor, B: Tensor, identity: float
) -> Tensor:
    """Gradient of x without a gate, (tokens, in)."""
    blocks = _blocks(W.shape[1], W.shape[0], W, at_least=_LEAST_COLUMNS)
    if blocks == [None]:
        return torch.mm(d_y, _block_weight(W, A, B, rows.dtype, identity))
    d_x = torch.empty_like(rows)
    for part in blocks:
        weight = _block_weight(W[:, part], A[:, part], B, rows.dtype, identity)
        d_x[:, part] = torch.mm(d_y, weight)
    return d_x


def gated_input_gradients(
    d_y: Tensor, rows: Tensor, gate: Tensor, W: Tensor, A: Tensor, B: Tensor, identity: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x, (tokens, in), and of the gate, (tokens, 1), float32 or better."""
    d_x = rows.new_zeros(rows.shape) if identity == 0.0 else torch.mm(d_y, W.to(rows.dtype))
    # A sum that comes out in another type takes a processor twice as long.
    sum_dtype = rows.dtype if rows.device.type == "cpu" else wide(rows.dtype)
    d_gates = []
    for part in _blocks(W.shape[1], W.shape[0], W, at_least=_LEAST_COLUMNS):
        D = hadamard_product(_columns_of(W, part), _columns_of(A, part), B, rows.dtype)
        u = torch.mm(d_y, D)
        of_part = (_columns_of(rows, part) * u).sum(-1, keepdim=True, dtype=sum_dtype)
        d_gates.append(of_part.to(wide(rows.dtype)))
        _columns_of(d_x, part).addcmul_(u, gate)
    return d_x, d_gates[0] if len(d_gates) == 1 else torch.stack(d_gates).sum(0)


def logit_gradient(d_gate: Tensor, gate: Tensor) -> Tensor:
    """Gradient of the logit from that of g = σ(logit), both in the shape and type of `gate`."""
    d_gate = d_gate.view(gate.shape).to(gate.dtype)
    d_logit: Tensor = torch.ops.aten.sigmoid_backward(d_gate, gate)
    return d_logit


def _gated_pair(d_y: Tensor, rows: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """dy and x with the gate on the narrower of them, since their product needs it once."""
    if gate is None:
        return d_y, rows
    if rows.shape[1] <= d_y.shape[1]:
        return d_y, rows * gate
    return d_y * gate, rows


def _outer(d_y: Tensor, rows: Tensor) -> Tensor:
    """Σ_tokens dy xᵀ, (out, in)."""
    left = d_y.t()
    if left.dtype == torch.bfloat16 and left.device.type == "cpu":
        left = left.contiguous()  # the transposing product is the slower by more than the copy
    return torch.mm(left, rows)


def factor_gradients(
    d_y: Tensor, rows: Tensor, gate: Tensor | None, W: Tensor, A: Tensor, B: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B: Bᵀ (P ⊙ W) and (P ⊙ W) Aᵀ with P = Σ_tokens g dy xᵀ."""
    d_y, rows = _gated_pair(d_y, rows, gate)
    dtype = torch.promote_types(rows.dtype, A.dtype)
    A_t, B_t = A.t().to(dtype), B.t().to(dtype)
    blocks = _blocks(W.shape[0], W.shape[1], W)
    if blocks == [None]:
        d_BA = _outer(d_y, rows).mul_(W).to(dtype)
        return torch.mm(B_t, d_BA).to(A.dtype), torch.mm(d_BA, A_t).to(B.dtype)
    d_A = A.new_zeros(A.shape, dtype=wide(dtype))
    d_B = torch.empty_like(B)
    for part in blocks:
        d_BA = _outer(d_y[:, part], rows).mul_(W[part]).to(dtype)  # (block, in)
        d_A += torch.mm(B_t[:, part], d_BA)
        d_B[part] = torch.mm(d_BA, A_t)
    return d_A.to(A.dtype), d_B


def weight_gradient(
    d_y: Tensor, rows: Tensor, gate: Tensor | None, A: Tensor, B: Tensor, identity: float
) -> Tensor:
    """Gradient of W, (out, in): rare, since W is frozen in ordinary use."""
    d_W = _outer(*_gated_pair(d_y, rows, gate)) * torch.mm(B, A)
    return d_W if identity == 0.0 else d_W + _outer(d_y, rows)
