"""Time of decoding one token, and of skipping closed gates, in evaluation.

    python benchmarks/adapter_decode.py
    python benchmarks/adapter_decode.py --dtypes float32 --repetitions 5

Decoding: one token through an adapted up projection, whose product W ⊙ (BA) is kept between
tokens, or rebuilt for each. Skipping: many tokens through up and down projection, with the gates of
a known share of them below `gate_threshold`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from adapted_blocks import (
    PEFT_HIRA,
    PEFT_LORA,
    PRECISIONS,
    RANK,
    SIZES,
    Precision,
    Size,
    adapted_layers,
    frozen_weights,
)
from measuring import (
    REPORT,
    interleaved_seconds,
    kernel_seconds,
    kind,
    machine,
    progress,
    ratios,
    spread,
    table,
    write_section,
)
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels.cache import products

BARE, TWO_WEIGHTS = "bare base layer", "two bare layers"
CACHED, REBUILT = "token+hira, cached", "token+hira, rebuilt"
UNSKIPPED, SKIPPED = "every token updated", "closed gates skipped"
MOST_OVER_BARE, LEAST_OVER_REBUILT, MOST_OVER_UNSKIPPED = 2.3, 5.0, 0.75
CLOSED_SHARE = 0.7
EVALUATED_TOKENS = 2048
SIZE = "llama-3-8b"


@dataclass(frozen=True)
class Record:
    """Seconds of one way to compute the same layer, one for each round."""

    dtype: str
    name: str
    seconds: list[float]
    kernel_seconds: float | None = None  # None on a CPU


def measure_decoding(
    size: Size, dtype: str, repetitions: int, device: torch.device, tokens: int = 1
) -> list[Record]:
    """One token through the up projection: bare, adapted by ours and by PEFT.

    So many `tokens` follow one another between two looks at the clock; the seconds are of one.
    """
    steps = _decoding_steps(size, PRECISIONS[dtype], device)
    many = {name: _all_of([step] * tokens) for name, step in steps.items()}
    seconds = interleaved_seconds(many, repetitions, device)
    return [
        Record(dtype, name, [s / tokens for s in seconds[name]], kernel_seconds(step, device))
        for name, step in steps.items()
    ]


def _decoding_steps(
    size: Size, precision: Precision, device: torch.device
) -> dict[str, Callable[[], None]]:
    weights = frozen_weights(size, ("up_proj",), precision.base, device)
    x = torch.randn(1, 1, size.hidden, device=device).to(precision.base)

    def adapted(method: str) -> nn.Module:
        return adapted_layers(method, weights, precision)["up_proj"].eval()

    steps = {BARE: _evaluation(lambda given: F.linear(given, weights["up_proj"]), x)}
    # What the cached form reads at least: W and D, of which one token uses each element once.
    both = [weights["up_proj"], weights["up_proj"].detach().clone()]
    steps[TWO_WEIGHTS] = _evaluation(lambda given: [F.linear(given, weight) for weight in both], x)
    steps[CACHED] = _evaluation(adapted("token+hira"), x)
    steps[REBUILT] = _without_memory(_evaluation(adapted("token+hira"), x))
    for method in (PEFT_LORA, PEFT_HIRA):
        steps[method] = _evaluation(adapted(method), x)
    return steps


def measure_skipping(
    size: Size, tokens: int, dtype: str, repetitions: int, device: torch.device
) -> list[Record]:
    """Up and down projection over many tokens, with and without skipping those closed."""
    precision = PRECISIONS[dtype]
    names = ("up_proj", "down_proj")
    weights = frozen_weights(size, names, precision.base, device)
    inputs = {
        name: torch.randn(1, tokens, size.shapes()[name][1], device=device).to(precision.base)
        for name in names
    }
    steps = {}
    for label, threshold in ((UNSKIPPED, 0.0), (SKIPPED, 0.5)):
        layers = adapted_layers("token+hira", weights, precision, gate_threshold=threshold)
        for name, layer in layers.items():
            _close_gates(layer.eval(), inputs[name], precision)
        parts = [_evaluation(layers[name], inputs[name]) for name in names]
        steps[label] = _all_of(parts)
    seconds = interleaved_seconds(steps, repetitions, device)
    return [Record(dtype, name, seconds[name]) for name in steps]


@torch.no_grad()
def _close_gates(layer: nn.Module, x: Tensor, precision: Precision) -> None:
    """Set the gate's bias so that its logit is negative for CLOSED_SHARE of the tokens of x."""
    gate = layer.gatera_gate["default"]
    score = F.linear(x.float(), gate.weight.float()).flatten()
    gate.bias.fill_(-float(score.quantile(CLOSED_SHARE)))


def _evaluation(layer: Callable[[Tensor], object], x: Tensor) -> Callable[[], None]:
    def step() -> None:
        with torch.no_grad():
            layer(x)

    return step


def _all_of(steps: Sequence[Callable[[], None]]) -> Callable[[], None]:
    def step() -> None:
        for part in steps:
            part()

    return step


def _without_memory(step: Callable[[], None]) -> Callable[[], None]:
    def bare() -> None:
        with _no_products_kept():
            step()

    return bare


@contextmanager
def _no_products_kept() -> Iterator[None]:
    limit = products.limit_bytes
    products.limit_bytes = 0
    try:
        yield
    finally:
        products.limit_bytes = limit


def render(decoding: Sequence[Record], skipping: Sequence[Record], size: Size, where: str) -> str:
    """The report's section, from what was measured."""
    parts = [
        f"\nMedians with quartiles in brackets, r = {RANK}; methods take turns in "
        "every round, and a ratio is the median of the rounds' own ratios. The types are those of "
        f"the section on training.\n\nMeasured on: {where}\n",
        decoding_table(decoding, size),
        f"\n### Skipping tokens whose gate is closed, {size.hidden} → {size.intermediate} and "
        "back\n\n",
        _skipping_table(skipping),
    ]
    return "".join(parts)


def decoding_table(records: Sequence[Record], size: Size) -> str:
    """The table of `measure_decoding`, with its heading and its targets."""
    text = (
        f"\n### Decoding one token, {size.hidden} → {size.intermediate}\n\n"
        f"Targets: cached at most {MOST_OVER_BARE} × the bare base layer, and at least "
        f"{LEAST_OVER_REBUILT:g} × faster than rebuilding the product. "
        f"*{TWO_WEIGHTS.capitalize()}*: two weights of the layer's size, read once each, as the "
        "cached form must. *Kernels*: the time that a GPU works for a token.\n\n"
    )
    found = {(r.dtype, r.name): r.seconds for r in records}
    rows = []
    for record in records:
        bare, rebuilt = found[record.dtype, BARE], found[record.dtype, REBUILT]
        over_bare, faster = ratios(record.seconds, bare), ratios(rebuilt, record.seconds)
        holds = ""
        if record.name == CACHED:
            fits = (median(over_bare) <= MOST_OVER_BARE, median(faster) >= LEAST_OVER_REBUILT)
            holds = ", ".join("yes" if each else "**no**" for each in fits)
        row = [record.name, record.dtype, spread(record.seconds, 3, 1e3)]
        row.append("–" if record.kernel_seconds is None else f"{record.kernel_seconds * 1e3:.3f}")
        rows.append([*row, spread(over_bare, 2), spread(faster, 1), holds])
    header = ["layer", "type", "ms", "kernels, ms", "× bare base layer", "rebuilding takes ×"]
    return text + table([*header, "targets hold"], rows)


def _skipping_table(records: Sequence[Record]) -> str:
    found = {(r.dtype, r.name): r.seconds for r in records}
    rows = []
    for record in records:
        ratio = ratios(record.seconds, found[record.dtype, UNSKIPPED])
        holds = ""
        if record.name == SKIPPED:
            holds = "yes" if median(ratio) <= MOST_OVER_UNSKIPPED else "**no**"
        digits = 0 if median(record.seconds) >= 0.1 else 2
        milliseconds = spread(record.seconds, digits, 1e3)
        rows.append([record.name, record.dtype, milliseconds, spread(ratio, 2), holds])
    text = (
        f"Gates of {CLOSED_SHARE:.0%} of the tokens lie below the threshold. Target: at most "
        f"{MOST_OVER_UNSKIPPED} × of the same layers without skipping.\n\n"
    )
    return text + table(["layer", "type", "ms", "× without skipping", "target holds"], rows)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parsed = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parsed.add_argument(
        "--dtypes", nargs="+", choices=list(PRECISIONS), default=["float32", "bfloat16"]
    )
    parsed.add_argument("--size", choices=list(SIZES), default=SIZE)
    parsed.add_argument("--tokens", type=int, default=EVALUATED_TOKENS)
    parsed.add_argument("--repetitions", type=int, default=9)
    parsed.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parsed.add_argument("--report", type=Path, default=REPORT)
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the section, and write it into the report."""
    given = parser().parse_args(arguments)
    size = SIZES[given.size]
    decoding: list[Record] = []
    skipping: list[Record] = []
    rounds = max(1, given.repetitions // 3)  # 2,048 tokens take a hundred times one token's time
    for dtype in given.dtypes:
        progress(f"{dtype}: decoding one token, {given.repetitions} rounds")
        decoding += measure_decoding(size, dtype, given.repetitions, given.device)
        progress(f"{dtype}: {given.tokens} tokens with closed gates, {rounds} rounds")
        skipping += measure_skipping(size, given.tokens, dtype, rounds, given.device)
    where = kind(given.device)
    measured = render(decoding, skipping, size, machine(given.device))
    text = f"## Evaluation: {where}\n{measured}"
    print(text)
    write_section(given.report, f"adapter_decode {where}", text)


if __name__ == "__main__":
    main()
