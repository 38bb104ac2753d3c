"""Time and memory of one training step of a block's adapted layers, beside PEFT's methods.

    python benchmarks/adapter_step.py
    python benchmarks/adapter_step.py --sizes smollm2-135m --dtypes float32 --repetitions 5

A step is the forward and the backward pass of the up and the down projection, each on an input
that needs its gradient too, as inside a network. The bytes kept for the backward pass are those of
all five adapted projections of the block.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import bare_products
import torch
from adapted_blocks import (
    ALL_METHODS,
    CORE_METHODS,
    PEFT_HIRA,
    PEFT_LORA,
    PRECISIONS,
    RANK,
    SIZES,
    Precision,
    Size,
    adapted_layers,
    bytes_kept,
    frozen_weights,
)
from measuring import (
    REPORT,
    interleaved_seconds,
    kernel_seconds,
    kind,
    machine,
    peak_bytes,
    progress,
    ratios,
    spread,
    table,
    write_section,
)
from torch import Tensor, nn

from gatera.adapter.kernels import fused

TIMED = ("up_proj", "down_proj")
DEFAULT_REPETITIONS = {"smollm2-135m": 15, "llama-like": 9, "llama-3-8b": 5}
DEFAULT_METHODS = {"smollm2-135m": "all", "llama-like": "core", "llama-3-8b": "core"}
METHOD_SETS = {"core": CORE_METHODS, "all": ALL_METHODS}
# (method, peer, size, dtype): at most this many times the peer's step.
TARGETS = {
    ("token+hira", PEFT_HIRA, "smollm2-135m", "float32"): 1.10,
    ("token+hira", PEFT_HIRA, "smollm2-135m", "bfloat16"): 1.10,
    **{
        (method, PEFT_HIRA, size, dtype): limit
        for method, limits in {"token+hira": (0.92, 0.65), "none+hira": (0.80, 0.60)}.items()
        for size in ("llama-like", "llama-3-8b")
        for dtype, limit in zip(("float32", "bfloat16"), limits, strict=True)
    },
    **{
        ("token+lora", PEFT_LORA, size, dtype): 1.15
        for size in SIZES
        for dtype in ("float32", "bfloat16", "bfloat16-autocast")
    },
}
FUSED = ("none+hira", "token+hira")  # build W ⊙ (BA) in one pass where a kernel can
LEAST_PRODUCTS = {"token+hira": 5, "none+hira": 3}  # of the layer's size, in any order
MOST_BYTES = 1.05  # token+hira's bytes kept, as a multiple of PEFT LoRA's

HOW = f"""
Forward and backward pass of a block's up and down projection together, r = {RANK}, the inputs
needing gradients; milliseconds, medians over rounds with quartiles in brackets. Every round runs
each method once, in a turning order, and a ratio is the median of the rounds' own ratios. *Kept*:
MiB held for the backward pass by the five adapted projections of the block, parameters left out,
counted with `saved_tensors_hooks`.

*n products alone* is a step of nothing but n matrix products of the layer's size, in memory that is
at hand: less than any Hadamard layer of that many products can take. A token's gate needs five
(W x, D x, Wᵀ dy, Dᵀ dy, P), as PEFT's HiRA does them; none needs three in float32 and four in
bfloat16, where W and D stay apart in the forward pass, since W (1 + BA) would round away any BA
below 2⁻⁹, and with it the first steps of training.

- `float32`: all in float32.
- `bfloat16`: base weights, activations and adapters in bfloat16 (`autocast_adapter_dtype=False`).
- `bfloat16-autocast`: base and activations in bfloat16, adapters in float32 (PEFT's default on
  such a base), run under autocast.
- `bfloat16-default`: the same without autocast. PEFT then casts the activations to the adapter's
  float32 and computes the update in it; ours computes in the activations' type.
"""

HOW_ON_GPU = """
*Kernels*: the time that the device works in a step. The rest of a step it waits for the processor
to launch the next operation: where that is most of it, the ratios are those of the numbers of
launches, and depend on the processor and on whether the machine is a virtual one. *plain*: the same
method without the Triton kernel that builds W ⊙ (BA) in one pass. The limits below were set for one
thread of a processor; they are shown here for want of others.
"""


@dataclass(frozen=True)
class Record:
    """What was measured of one method at one size in one precision."""

    size: str
    dtype: str
    method: str
    seconds: list[float]  # one a round
    kept_bytes: int | None  # five projections; None for products alone
    peak_bytes: int | None  # up and down projection; None on a CPU
    kernel_seconds: float | None = None  # None on a CPU


def measure(
    size_name: str,
    dtype: str,
    methods: Sequence[str],
    repetitions: int,
    device: torch.device,
    size: Size | None = None,
) -> list[Record]:
    """Measure the methods side by side; `size` stands in for the one of that name."""
    size = size or SIZES[size_name]
    precision = PRECISIONS[dtype]
    weights = frozen_weights(size, TIMED, precision.base, device)
    inputs = _inputs(size, TIMED, precision, device)
    d_outputs = [
        torch.randn_like(torch.empty(*inputs[n].shape[:-1], size.shapes()[n][0], device=device))
        for n in TIMED
    ]
    steps = {
        method: _step(adapted_layers(method, weights, precision), inputs, d_outputs, precision)
        for method in methods
    }
    if device.type == "cuda":
        for method in (m for m in methods if m in FUSED):
            steps[f"{method}, plain"] = _without_kernel(steps[method])
    timed = list(steps)
    for count in bare_products.COUNTS:
        bare = bare_products.bare_step(count, weights, inputs, d_outputs)
        steps[bare_products.name(count)] = bare
    seconds = interleaved_seconds(steps, repetitions, device)
    peaks = {name: peak_bytes(steps[name], device) for name in timed}
    kernels = {name: kernel_seconds(step, device) for name, step in steps.items()}
    kept = _bytes_kept(size, methods, precision, device)
    return [
        Record(
            size_name, dtype, name, seconds[name], kept.get(name), peaks.get(name), kernels[name]
        )
        for name in steps
    ]


def _without_kernel(step: Callable[[], None]) -> Callable[[], None]:
    def plain() -> None:
        with fused.disabled():
            step()

    return plain


def _inputs(
    size: Size, names: Sequence[str], precision: Precision, device: torch.device
) -> dict[str, Tensor]:
    """An input for each projection; q, k and v share theirs, as in a transformer block."""
    inputs: dict[str, Tensor] = {}
    for name in names:
        into = size.shapes()[name][1]
        x = torch.randn(4, size.tokens // 4, into, device=device).to(precision.base)
        inputs[name] = x.requires_grad_()
    for name in set(names) & {"k_proj", "v_proj"}:
        inputs[name] = inputs["q_proj"]
    return inputs


def _step(
    layers: dict[str, nn.Module],
    inputs: dict[str, Tensor],
    d_outputs: list[Tensor],
    precision: Precision,
) -> Callable[[], None]:
    leaves = [*inputs.values()]
    leaves += [p for layer in layers.values() for p in layer.parameters() if p.requires_grad]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        device = leaves[0].device
        with precision.context(device):
            outputs = [layers[name](inputs[name]) for name in layers]
        gradients = [d.to(y.dtype) for d, y in zip(d_outputs, outputs, strict=True)]
        torch.autograd.backward(outputs, gradients)

    return step


def _bytes_kept(
    size: Size, methods: Sequence[str], precision: Precision, device: torch.device
) -> dict[str, int]:
    names = tuple(size.shapes())
    weights = frozen_weights(size, names, precision.base, device)
    inputs = _inputs(size, names, precision, device)

    def run(layers: dict[str, nn.Module], given: dict[str, Tensor]) -> list[Tensor]:
        with precision.context(device):
            return [layers[name](given[name]) for name in layers]

    return {
        method: bytes_kept(adapted_layers(method, weights, precision), inputs, run)
        for method in methods
    }


def render(records: Sequence[Record], where: str) -> str:
    """The report's section: whether the targets hold, then a table for each size and type."""
    on_gpu = any(record.kernel_seconds is not None for record in records)
    how = HOW + HOW_ON_GPU if on_gpu else HOW
    parts = [how, f"\nMeasured on: {where}\n", "\n### Targets\n\n", _targets(records)]
    for size, dtype in dict.fromkeys((r.size, r.dtype) for r in records):
        group = [r for r in records if (r.size, r.dtype) == (size, dtype)]
        parts += [f"\n### {_describe(size)}, {dtype}\n\n", _group_table(group)]
    return "".join(parts)


def _describe(size_name: str) -> str:
    size = SIZES.get(size_name)
    if size is None:
        return size_name
    return f"{size_name}: {size.hidden} × {size.intermediate}, {size.tokens} tokens"


def _group_table(group: Sequence[Record]) -> str:
    peers = [r for r in group if r.method in (PEFT_HIRA, PEFT_LORA)]
    on_gpu = any(r.peak_bytes is not None for r in group)
    header = ["method", "step, ms", *(f"× {peer.method}" for peer in peers), "kept, MiB"]
    header += ["kernels, ms", "peak, MiB", "tokens/s"] if on_gpu else []
    rows = []
    for record in group:
        row = [record.method, spread(record.seconds, 2 if on_gpu else 1, 1e3)]
        row += [spread(ratios(record.seconds, peer.seconds), 2) for peer in peers]
        row.append("–" if record.kept_bytes is None else f"{record.kept_bytes / 2**20:.2f}")
        if on_gpu:
            kernels = record.kernel_seconds
            row.append("–" if kernels is None else f"{kernels * 1e3:.2f}")
            row.append("–" if record.peak_bytes is None else f"{record.peak_bytes / 2**20:.0f}")
            row.append(f"{SIZES[record.size].tokens / median(record.seconds):.0f}")
        rows.append(row)
    return table(header, rows)


def _targets(records: Sequence[Record]) -> str:
    found = {(r.size, r.dtype, r.method): r for r in records}
    rows = []
    for (method, peer, size, dtype), limit in TARGETS.items():
        ours, theirs = found.get((size, dtype, method)), found.get((size, dtype, peer))
        if ours is not None and theirs is not None:
            ratio = median(ratios(ours.seconds, theirs.seconds))
            row = _target_row(f"{method}: step", peer, size, dtype, ratio, limit)
            bare = found.get((size, dtype, bare_products.name(LEAST_PRODUCTS.get(method, 0))))
            rows.append([*row, "–" if bare is None else _floor(bare, theirs)])
    for (size, dtype, method), ours in found.items():
        theirs = found.get((size, dtype, PEFT_LORA))
        if method == "token+hira" and theirs is not None:
            assert ours.kept_bytes is not None
            assert theirs.kept_bytes is not None
            ratio = ours.kept_bytes / theirs.kept_bytes
            row = _target_row(f"{method}: bytes", PEFT_LORA, size, dtype, ratio, MOST_BYTES)
            rows.append([*row, "–"])
    header = ["measure", "against", "size", "type", "ratio", "at most", "holds", "products alone"]
    return table(header, rows)


def _floor(bare: Record, peer: Record) -> str:
    """The ratio of the least number of products to the peer's step, and that number."""
    return f"{median(ratios(bare.seconds, peer.seconds)):.2f} ({bare.method.split()[0]})"


def _target_row(
    measure_name: str, peer: str, size: str, dtype: str, ratio: float, limit: float
) -> list[str]:
    holds = "yes" if ratio <= limit else "**no**"
    return [measure_name, peer, size, dtype, f"{ratio:.2f}", f"{limit:.2f}", holds]


def _methods(text: str) -> tuple[str, ...]:
    """Methods by name, or those of a set of that name."""
    if text in METHOD_SETS:
        return METHOD_SETS[text]
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in ALL_METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; choose from: {', '.join(ALL_METHODS)}, or one of the "
            f"sets {', '.join(METHOD_SETS)}"
        )
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parsed = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parsed.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parsed.add_argument("--dtypes", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parsed.add_argument(
        "--methods",
        type=_methods,
        help="names in one argument, such as 'PEFT HiRA,token+hira', or 'core' or 'all'; by "
        "default all at smollm2-135m and core elsewhere",
    )
    parsed.add_argument("--repetitions", type=int, help="rounds; by default fewer for large sizes")
    parsed.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parsed.add_argument("--report", type=Path, default=REPORT)
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the section, and write it into the report."""
    given = parser().parse_args(arguments)
    records: list[Record] = []
    for size in given.sizes:
        methods = given.methods or METHOD_SETS[DEFAULT_METHODS[size]]
        repetitions = given.repetitions or DEFAULT_REPETITIONS[size]
        for dtype in given.dtypes:
            progress(f"{size}, {dtype}: {len(methods)} methods, {repetitions} rounds")
            records += measure(size, dtype, methods, repetitions, given.device)
    where = kind(given.device)
    measured = render(records, machine(given.device))
    text = f"## One training step: {where}\n{measured}"
    print(text)
    write_section(given.report, f"adapter_step {where}", text)


if __name__ == "__main__":
    main()
