"""Time and memory of one training step of a whole LLaMA with random weights, beside PEFT's methods.

    python benchmarks/adapter_model.py --device cuda
    python benchmarks/adapter_model.py --model small --device cpu --repetitions 3

A step is the forward pass of the language model's loss and the backward pass to the adapters, with
q, k, v, up and down projection adapted in every block and without gradient checkpointing. All
methods share one set of frozen weights.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from adapted_blocks import (
    ALL_METHODS,
    PEFT_HIRA,
    PEFT_LORA,
    PRECISIONS,
    RANK,
    Precision,
    method_config,
    randomize,
)
from measuring import (
    REPORT,
    interleaved_rounds,
    kernel_seconds,
    kind,
    machine,
    one_line,
    peak_bytes,
    progress,
    ratios,
    spread,
    table,
    write_section,
)
from peft import get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from gatera.backbones.architectures import LLAMA_3_8B

METHODS = (PEFT_LORA, PEFT_HIRA, "none+hira", "token+hira", "token+lora")
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
MODELS = {
    "llama-3-8b": LLAMA_3_8B,
    "small": LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    ),
}


# (method, peer, what, at most this many times the peer's, the aim beyond)
LIMITS: tuple[tuple[str, str, str, float, str], ...] = (
    ("token+hira", PEFT_HIRA, "step", 1.0, "0.85"),
    ("token+hira", PEFT_LORA, "peak", 1.05, "1.00"),
    ("none+hira", PEFT_HIRA, "step", 0.75, ""),
    ("token+lora", PEFT_LORA, "step", 1.15, ""),
)
# Floating-point operations a second of dense bfloat16 products, from NVIDIA's data sheets.
BF16_PEAKS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}


@dataclass(frozen=True)
class Record:
    """What was measured of one method."""

    method: str
    tokens: int  # of one step
    trained_parameters: int
    seconds: list[float]  # one a round
    peak_bytes: int | None  # beyond the weights; None on a CPU
    kernel_seconds: float | None  # None on a CPU
    flops: int | None = None  # of a step with any adapter, see `step_flops`; None: not counted
    failed: str = ""  # the error that a step ended with


def measure(
    base: LlamaForCausalLM,
    methods: Sequence[str],
    precision: Precision,
    batch: tuple[int, int],
    repetitions: int,
    device: torch.device,
) -> Iterator[tuple[str, list[Record]]]:
    """Measure the methods side by side on one model, with `batch` (sequences, tokens).

    Yields each piece's name with all that is known by then: first memory, method by method, then
    the rounds, then the kernels. A method whose first step fails is left out of the rounds.
    """
    ids = torch.randint(0, base.config.vocab_size, batch, device=device)
    flops = step_flops(base, batch)
    steps: dict[str, Callable[[], None]] = {}
    found: dict[str, Record] = {}
    for method in methods:
        try:
            model = adapted(base, method, precision)
            randomize(model)
            step = training_step(model, ids, precision)
            step()
            peak = peak_bytes(step, device)
            model.zero_grad()  # which would count as memory that was there before
        except Exception as error:  # such as memory that does not suffice: the others go on
            found[method] = Record(method, ids.numel(), 0, [], None, None, None, one_line(error))
        else:
            steps[method] = step
            trained = trained_parameters(model)
            found[method] = Record(method, ids.numel(), trained, [], peak, None, flops)
        yield f"memory of {method}", list(found.values())
    if not steps:
        return
    for number, seconds in enumerate(interleaved_rounds(steps, repetitions, device), 1):
        for method, each in seconds.items():
            found[method].seconds.append(each)
        yield f"round {number}", list(found.values())
    for method, step in steps.items():
        kernels = kernel_seconds(step, device)
        found[method] = replace(found[method], kernel_seconds=kernels)
        yield f"kernels of {method}", list(found.values())


def step_flops(base: LlamaForCausalLM, batch: tuple[int, int]) -> int:
    """Floating-point operations that a step needs with any adapter, its own left out.

    With T = B S tokens in B sequences, N weights in the linear layers (the head included, the
    embedding not), L blocks of width H:

        4 T N  +  6 B S² H L.

    A frozen layer multiplies twice, for y and for dx, with two operations a weight and token.
    Attention's two products (Q Kᵀ, and its softmax with V) take 2 B S² H operations together, half
    of the full square since it is causal, and their four in the backward pass twice that. What an
    adapter multiplies beyond is overhead: the share of the card's peak falls as it grows.
    """
    sequences, tokens = batch
    weights = sum(m.weight.numel() for m in base.modules() if isinstance(m, nn.Linear))
    config = base.config
    attention = 6 * sequences * tokens**2 * config.hidden_size * config.num_hidden_layers
    return 4 * sequences * tokens * weights + attention


def random_model(config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> LlamaForCausalLM:
    """A frozen model with random weights, in training mode."""
    with device:
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    return model.requires_grad_(False).train()


def adapted(base: LlamaForCausalLM, method: str, precision: Precision) -> nn.Module:
    """A model of its own modules around the very parameters of `base`, with a fresh adapter."""
    shared = {id(parameter): parameter for parameter in base.parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(
            copy.deepcopy(base, shared),
            method_config(method, TARGETS, {}),
            autocast_adapter_dtype=not precision.adapter_in_base_type,
        )


def trained_parameters(model: nn.Module) -> int:
    """The number of the adapter's parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def training_step(model: nn.Module, ids: torch.Tensor, precision: Precision) -> Callable[[], None]:
    """Forward and backward pass on `ids`, (sequences, tokens)."""
    trained = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        for parameter in trained:
            parameter.grad = None
        with precision.context(ids.device):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()

    return step


def render(
    groups: dict[str, list[Record]], about: str, where: str, bf16_peak: float | None = None
) -> str:
    """The report's section, with a table for each precision.

    Args:
        groups: What was measured, by precision.
        about: The model and the batch.
        where: The machine.
        bf16_peak: Of the card, in operations a second; None: unknown.
    """
    parts = [
        f"\n{about} Forward and backward pass, without the optimizer and without gradient "
        "checkpointing; the methods take turns in every round, and a ratio is the median of the "
        "rounds' own ratios. *Kernels*: the time that the device works in a step. *Peak*: what a "
        "step allocates beyond the weights. *Of bf16 peak*: the operations that a step needs with "
        "any adapter, a second, over those that the card's data sheet gives. In `bfloat16` the "
        "adapter is in bfloat16 too; in `bfloat16-default` it is in float32, as PEFT has it by "
        f"default.\n\nMeasured on: {where}\n"
    ]
    parts += ["\n### Targets, set for LLaMA-3-8B on a GPU\n\n", _targets(groups)]
    for dtype, records in groups.items():
        parts += [f"\n### {dtype}\n\n", _table(records, bf16_peak)]
        parts += [f"\n{each.method} failed: {each.failed}\n" for each in records if each.failed]
    return "".join(parts)


def _targets(groups: dict[str, list[Record]]) -> str:
    rows = []
    for dtype, records in groups.items():
        found = {record.method: record for record in records}
        for method, peer, what, limit, aim in LIMITS:
            ratio = _ratio(found.get(method), found.get(peer), what)
            holds = "–" if ratio is None else "yes" if ratio <= limit else "**no**"
            shown = "–" if ratio is None else f"{ratio:.2f}"
            rows.append([f"{method}: {what}", peer, dtype, shown, f"{limit:.2f}", aim, holds])
    return table(["measure", "against", "type", "ratio", "at most", "aim", "holds"], rows)


def _ratio(ours: Record | None, theirs: Record | None, what: str) -> float | None:
    """The ratio of two steps' times or peaks, None where either is not measured."""
    if ours is None or theirs is None:
        return None
    if what == "step":
        both = ours.seconds and theirs.seconds
        return median(ratios(ours.seconds, theirs.seconds)) if both else None
    both = ours.peak_bytes and theirs.peak_bytes
    return ours.peak_bytes / theirs.peak_bytes if both else None


def _table(records: Sequence[Record], bf16_peak: float | None) -> str:
    peers = [r for r in records if r.method in (PEFT_HIRA, PEFT_LORA)]
    header = ["method", "trained, M", "step, ms", *(f"× {peer.method}" for peer in peers)]
    header += ["kernels, ms", "tokens/s", "peak, GiB", "of bf16 peak"]
    return table(header, [_row(record, peers, bf16_peak) for record in records])


def _row(record: Record, peers: Sequence[Record], bf16_peak: float | None) -> list[str]:
    kernels, peak = record.kernel_seconds, record.peak_bytes
    middle = median(record.seconds) if record.seconds else None
    over_peers = [
        spread(ratios(record.seconds, peer.seconds), 2) if middle and peer.seconds else "–"
        for peer in peers
    ]
    counted = middle and record.flops and bf16_peak
    return [
        record.method,
        "–" if record.failed else f"{record.trained_parameters / 1e6:.2f}",
        spread(record.seconds, 1, 1e3),
        *over_peers,
        "–" if kernels is None else f"{kernels * 1e3:.1f}",
        "–" if middle is None else f"{record.tokens / middle:.0f}",
        "–" if peak is None else f"{peak / 2**30:.2f}",
        f"{record.flops / middle / bf16_peak:.1%}" if counted else "–",
    ]


def describe(model: str, batch: tuple[int, int]) -> str:
    """The model and the batch, in words."""
    config = MODELS[model]
    return (
        f"{model}: {config.num_hidden_layers} blocks of {config.hidden_size} × "
        f"{config.intermediate_size}, random weights; r = {RANK} on {', '.join(TARGETS)}; "
        f"{batch[0]} sequences of {batch[1]} tokens."
    )


def card_peak(device: torch.device) -> float | None:
    """Operations a second of the card's bfloat16 products; None for a CPU and unknown cards."""
    return BF16_PEAKS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parsed = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parsed.add_argument("--model", choices=list(MODELS), default="llama-3-8b")
    parsed.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=METHODS)
    parsed.add_argument(
        "--dtypes", nargs="+", choices=list(PRECISIONS), default=["bfloat16", "bfloat16-default"]
    )
    parsed.add_argument("--sequences", type=int, default=4)
    parsed.add_argument("--tokens", type=int, default=512, help="of each sequence")
    parsed.add_argument("--repetitions", type=int, default=9)
    parsed.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parsed.add_argument("--report", type=Path, default=REPORT)
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the section, and write it into the report."""
    given = parser().parse_args(arguments)
    config, batch = MODELS[given.model], (given.sequences, given.tokens)
    about, where = describe(given.model, batch), kind(given.device)
    bf16_peak = card_peak(given.device)
    groups: dict[str, list[Record]] = {}
    text = ""
    for dtype in given.dtypes:
        progress(
            f"{given.model}, {dtype}: {len(given.methods)} methods, {given.repetitions} rounds"
        )
        precision = PRECISIONS[dtype]
        base = random_model(config, precision.base, given.device)
        rounds = given.repetitions
        for said, records in measure(base, given.methods, precision, batch, rounds, given.device):
            progress(f"{dtype}: {said}")
            groups[dtype] = records
        measured = render(groups, about, machine(given.device), bf16_peak)
        text = f"## One training step of a whole model: {where}\n{measured}"
        write_section(given.report, f"adapter_model {where}", text)  # a later type may not fit
    print(text)


if __name__ == "__main__":
    main()
