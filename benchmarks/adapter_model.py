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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Record:
    """What was measured of one method."""

    method: str
    tokens: int  # of one step
    trained_parameters: int
    seconds: list[float]  # one a round
    peak_bytes: int | None  # beyond the weights; None on a CPU
    kernel_seconds: float | None  # None on a CPU


def measure(
    config: LlamaConfig,
    methods: Sequence[str],
    precision: Precision,
    batch: tuple[int, int],
    repetitions: int,
    device: torch.device,
) -> list[Record]:
    """Measure the methods side by side on one model, with `batch` (sequences, tokens)."""
    base = _random_model(config, precision, device)
    ids = torch.randint(0, config.vocab_size, batch, device=device)
    models = {method: _adapted(base, method, precision) for method in methods}
    steps = {method: _step(model, ids, precision) for method, model in models.items()}
    seconds = interleaved_seconds(steps, repetitions, device)
    records = []
    for method, model in models.items():
        for other in models.values():
            other.zero_grad()  # whose gradients would count as memory that was there before
        peak, kernels = peak_bytes(steps[method], device), kernel_seconds(steps[method], device)
        records.append(Record(method, ids.numel(), _trained(model), seconds[method], peak, kernels))
    return records


def _random_model(
    config: LlamaConfig, precision: Precision, device: torch.device
) -> LlamaForCausalLM:
    with device:
        model = LlamaForCausalLM._from_config(config, dtype=precision.base)
    return model.requires_grad_(False).train()


def _adapted(base: LlamaForCausalLM, method: str, precision: Precision) -> nn.Module:
    """A model of its own modules around the very parameters of `base`."""
    shared = {id(parameter): parameter for parameter in base.parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(
            copy.deepcopy(base, shared),
            method_config(method, TARGETS, {}),
            autocast_adapter_dtype=not precision.adapter_in_base_type,
        )
    randomize(model)
    return model


def _trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _step(model: nn.Module, ids: torch.Tensor, precision: Precision) -> Callable[[], None]:
    trained = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        for parameter in trained:
            parameter.grad = None
        with precision.context(ids.device):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()

    return step


def render(groups: dict[str, list[Record]], about: str, where: str) -> str:
    """The report's section, with a table for each precision."""
    parts = [
        f"\n{about} Forward and backward pass, without the optimizer and without gradient "
        "checkpointing; the methods take turns in every round, and a ratio is the median of the "
        "rounds' own ratios. *Kernels*: the time that the device works in a step. *Peak*: what a "
        "step allocates beyond the weights. The types are those of the section on one block's "
        f"step.\n\nMeasured on: {where}\n"
    ]
    for dtype, records in groups.items():
        parts += [f"\n### {dtype}\n\n", _table(records)]
    return "".join(parts)


def _table(records: Sequence[Record]) -> str:
    peers = [r for r in records if r.method in (PEFT_HIRA, PEFT_LORA)]
    rows = []
    for record in records:
        row = [record.method, f"{record.trained_parameters / 1e6:.2f}"]
        row.append(spread(record.seconds, 1, 1e3))
        row += [spread(ratios(record.seconds, peer.seconds), 2) for peer in peers]
        kernels, peak = record.kernel_seconds, record.peak_bytes
        row.append("–" if kernels is None else f"{kernels * 1e3:.1f}")
        row.append(f"{record.tokens / median(record.seconds):.0f}")
        row.append("–" if peak is None else f"{peak / 2**30:.2f}")
        rows.append(row)
    header = ["method", "trained, M", "step, ms", *(f"× {peer.method}" for peer in peers)]
    return table([*header, "kernels, ms", "tokens/s", "peak, GiB"], rows)


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
    about = (
        f"{given.model}: {config.num_hidden_layers} blocks of {config.hidden_size} × "
        f"{config.intermediate_size}, random weights; r = {RANK} on {', '.join(TARGETS)}; "
        f"{given.sequences} sequences of {given.tokens} tokens."
    )
    where = kind(given.device)
    groups: dict[str, list[Record]] = {}
    text = ""
    for dtype in given.dtypes:
        progress(
            f"{given.model}, {dtype}: {len(given.methods)} methods, {given.repetitions} rounds"
        )
        groups[dtype] = measure(
            config, given.methods, PRECISIONS[dtype], batch, given.repetitions, given.device
        )
        measured = render(groups, about, machine(given.device))
        text = f"## One training step of a whole model: {where}\n{measured}"
        write_section(given.report, f"adapter_model {where}", text)  # a later type may not fit
    print(text)


if __name__ == "__main__":
    main()
