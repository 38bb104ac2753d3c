"""All that is measured on a GPU, in one unattended run of under ten minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only decoding,trials --out gpu.md
    python benchmarks/gpu.py --device cpu --small --out gpu.md

Nothing is downloaded, and neither optuna nor mlflow is needed. What was measured is in the report
at once and stays there, whatever ends a part (see parts.py); a part whose packages are missing says
so. The exit status is 1 where a part failed or its time was over, 2 where an option is of no use.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import interleaved_rounds, kind, machine, ratios, spread, table
from parts import Measuring, end_on_signals, events, keep, serve
from trials_at_once import SHORT, planned_trials, train

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "reports" / "benchmarks" / "gpu.md"
TITLE = "# Measured on one GPU\n"
NOT_YET = f"""{TITLE}
Not measured yet: no GPU was at hand. On a machine with one, `python benchmarks/gpu.py` measures
the steps of a whole model, decoding, evaluation and trials side by side in under ten minutes, and
writes its sections here in place of these lines.
"""
GATERA = "token+hira"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    model: str  # of adapter_model.MODELS
    batch: tuple[int, int]  # sequences, tokens of each
    model_rounds: int
    layer: str  # of adapted_blocks.SIZES
    tokens: int  # decoded one after another between two looks at the clock
    layer_rounds: int
    steps: int  # that the evaluated adapter is trained for
    items: int  # of each test set
    blocks: int  # of SmolLM2-135M's architecture
    random_type: str  # of its random weights
    at_once: int  # items that are generated for in one batch
    evaluation_rounds: int
    processes: tuple[int, ...]  # that train at the same time, rising
    trial: Mapping[str, Any]  # settings that depart from the embedded scale's
    trial_rounds: int


FULL = Sizes(
    model="llama-3-8b",
    batch=(4, 512),
    model_rounds=9,
    layer="llama-3-8b",
    tokens=50,
    layer_rounds=30,
    steps=80,
    items=96,
    blocks=30,
    random_type="bfloat16",
    at_once=64,
    evaluation_rounds=3,
    processes=(1, 2, 4, 8),
    trial={},
    trial_rounds=3,
)
SMALL = Sizes(
    model="small",
    batch=(2, 16),
    model_rounds=3,
    layer="smollm2-135m",
    tokens=5,
    layer_rounds=5,
    steps=24,
    items=6,
    blocks=2,
    random_type="float32",
    at_once=16,
    evaluation_rounds=2,
    processes=(1, 2),
    trial=SHORT,
    trial_rounds=1,
)


@dataclass(frozen=True)
class Setting:
    """What a part is measured with, and on."""

    sizes: Sizes
    device: torch.device
    where: str  # machine, commit and date
    ends: float  # `time.monotonic()` at which the part's time is nearly over


def measure_model(setting: Setting) -> Measuring:
    """Training steps of a whole model, ours beside PEFT's."""
    import adapter_model as whole

    sizes, device = setting.sizes, setting.device
    about, bf16_peak = whole.describe(sizes.model, sizes.batch), whole.card_peak(device)
    base = whole.random_model(whole.MODELS[sizes.model], torch.bfloat16, device)
    groups: dict[str, list[Any]] = {}
    for dtype in ("bfloat16", "bfloat16-default"):
        precision = whole.PRECISIONS[dtype]
        for said, groups[dtype] in whole.measure(
            base, whole.METHODS, precision, sizes.batch, sizes.model_rounds, device
        ):
            yield f"{dtype}, {said}", whole.render(groups, about, setting.where, bf16_peak)
    failed = [f"{dtype}, {r.method}" for dtype in groups for r in groups[dtype] if r.failed]
    if failed:
        raise RuntimeError(f"no step could be measured of {'; '.join(failed)}")


def measure_decoding(setting: Setting) -> Measuring:
    """A decoded token of one adapted layer, its product kept, beside the bare layer and PEFT's."""
    import adapter_decode as decode

    sizes, size = setting.sizes, decode.SIZES[setting.sizes.layer]
    how = (
        f"\n{sizes.tokens} tokens follow one another between two looks at the clock, r = "
        f"{decode.RANK}. Medians with quartiles in brackets; the layers take turns in every round, "
        f"and a ratio is the median of the rounds' own ratios.\n\nMeasured on: {setting.where}\n"
    )
    records: list[Any] = []
    for dtype in ("bfloat16", "float32"):
        records += decode.measure_decoding(
            size, dtype, sizes.layer_rounds, setting.device, sizes.tokens
        )
        yield dtype, how + decode.decoding_table(records, size)


def measure_evaluation(setting: Setting) -> Measuring:
    """Answering test items by the framework's scoring, beside a plain loop in data order."""
    from gatera import backbones

    sizes = setting.sizes
    tiny = backbones.load("tiny")
    models = {
        "embedded": lambda: _trained(tiny.model.to(setting.device), sizes.steps),
        "random": lambda: _random(len(tiny.tokenizer), setting),
    }
    about = (
        f"\n{sizes.items} test items of each embedded family, from texts to extracted answers, "
        f"greedy, {sizes.at_once} at once. The framework's scoring sorts the prompts by length, a "
        "plain loop calls `generate` in data order; they take turns, and their texts and answers "
        "are compared item by item. *embedded*: the backbone that ships with the package, in "
        f"float32, with GateRA trained for {sizes.steps} steps. *random*: SmolLM2-135M's "
        f"architecture with {sizes.blocks} blocks, the embedded vocabulary, random weights in "
        f"{sizes.random_type} and a fresh GateRA; there the last bits, which depend on the batch, "
        f"may decide a word.\n\nMeasured on: {setting.where}\n\n"
    )
    rows: dict[str, list[str]] = {}
    for name, build in models.items():
        model = build().eval()
        for number, row in enumerate(_evaluated(model, tiny.tokenizer, setting), 1):
            rows[name] = [name, *row]
            yield f"{name}, round {number}", about + table(_EVALUATED, list(rows.values()))


def _trained(base: Any, steps: int) -> Any:
    """The embedded backbone with an adapter that a trial trained: its answers have keywords."""
    from peft import PeftModel

    departures = {**SHORT, "train.max_steps": steps, "train.validation_every": steps}
    with tempfile.TemporaryDirectory() as folder:
        train(planned_trials(1, departures)[0], Path(folder))
        return PeftModel.from_pretrained(base, Path(folder) / "adapter")


def _random(vocabulary: int, setting: Setting) -> Any:
    """A model of SmolLM2-135M's architecture with random weights and a fresh adapter."""
    import adapter_model as whole

    from gatera.backbones.architectures import SMOLLM2_135M

    config, precision = copy.deepcopy(SMOLLM2_135M), whole.PRECISIONS[setting.sizes.random_type]
    config.vocab_size, config.num_hidden_layers = vocabulary, setting.sizes.blocks
    base = whole.random_model(config, precision.base, setting.device)
    return whole.adapted(base, GATERA, precision)


_EVALUATED = [
    *("model", "items", "with a keyword", "framework, s", "plain loop, s", "framework ÷ plain"),
    *("items/s", "unequal answers", "unequal texts"),
]
Answers = list[tuple[str, str | None]]  # text and extracted answer of each item


def _evaluated(model: Any, tokenizer: Any, setting: Setting) -> Iterator[list[str]]:
    """Yield the table's row after every round."""
    from gatera import tasks
    from gatera.studies.planning.configuration import scale_defaults
    from gatera.tasks.mixture import Item

    limit, at_once = setting.sizes.items, setting.sizes.at_once
    scored = scale_defaults("tiny")["data"]["tasks"]
    items = [Item(task, each) for task in scored for each in tasks.load(task, "test")[:limit]]
    found: dict[str, Answers] = {}

    def ours() -> None:
        found["ours"] = _by_framework(model, tokenizer, items, at_once)

    def plain() -> None:
        found["plain"] = _by_plain_loop(model, tokenizer, items, at_once)

    rounds: list[dict[str, float]] = []
    steps = {"ours": ours, "plain": plain}
    for seconds in interleaved_rounds(steps, setting.sizes.evaluation_rounds, setting.device):
        rounds.append(seconds)
        one, other = ([each[name] for each in rounds] for name in steps)
        pairs = list(zip(found["ours"], found["plain"], strict=True))
        yield [
            f"{len(items)}",
            f"{sum(keyword is not None for _, keyword in found['plain'])}",
            spread(one, 2),
            spread(other, 2),
            spread(ratios(one, other), 2),
            f"{len(items) / median(one):.0f}",
            f"{sum(a[1] != b[1] for a, b in pairs)}",
            f"{sum(a[0] != b[0] for a, b in pairs)}",
        ]


_TEMPLATE, _NEW_TOKENS = "alpaca", 8  # those of the embedded scale


def _by_framework(model: Any, tokenizer: Any, items: Sequence[Any], at_once: int) -> Answers:
    from gatera.tasks.decoding import Decoding
    from gatera.training.data import encode
    from gatera.training.evaluation.choices import may_pack
    from gatera.training.evaluation.scoring import Answering, Questions, answer

    encoded = encode([item.example for item in items], tokenizer, _TEMPLATE, None)
    questions = Questions(list(items), list(range(len(items))), encoded)
    decoding = Decoding(_NEW_TOKENS, 1, at_once)
    how = Answering(decoding, chooses=False, weighs=False, packs=may_pack(model, "token"))
    predictions = answer(model, tokenizer, questions, how)
    return [(each.output, each.extracted) for each in predictions]


def _by_plain_loop(model: Any, tokenizer: Any, items: Sequence[Any], at_once: int) -> Answers:
    from gatera.tasks import extract_answer
    from gatera.tasks.prompts import render_prompt

    texts: list[str] = []
    for start in range(0, len(items), at_once):
        prompts = [render_prompt(_TEMPLATE, i.example) for i in items[start : start + at_once]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        ids = batch["input_ids"].to(model.device)
        with torch.no_grad():
            output = model.generate(
                input_ids=ids,
                attention_mask=batch["attention_mask"].to(model.device),
                max_new_tokens=_NEW_TOKENS,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts += tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return [(text, extract_answer(i.task, text)) for i, text in zip(items, texts, strict=True)]


def measure_trials(setting: Setting) -> Measuring:
    """Whole trials of the embedded scale, several at a time, each in a process of its own."""
    from trials_at_once import measure, render

    sizes = setting.sizes
    for said, done in measure(
        sizes.processes, sizes.trial, sizes.trial_rounds, setting.ends, setting.device
    ):
        yield said, render(done, sizes.trial, setting.where)


@dataclass(frozen=True)
class Part:
    """One part of the report."""

    title: str
    seconds: float  # that it may take on a GPU, with the start of its process
    measure: Callable[[Setting], Measuring]


PARTS = {
    "model": Part("Training steps of a whole model", 170, measure_model),
    "decoding": Part("Decoding", 50, measure_decoding),
    "evaluation": Part("Evaluation beside a plain loop", 110, measure_evaluation),
    "trials": Part("Trials side by side", 220, measure_trials),
}


def measured(name: str, given: argparse.Namespace) -> Measuring:
    """Measure a part in this process; the section's heading names the device."""
    part, device = PARTS[name], torch.device(given.device)
    sizes, ends = SMALL if given.small else FULL, time.monotonic() + 0.8 * part.seconds
    heading = torch.cuda.get_device_name(device) if given.device == "cuda" else kind(device)
    where = f"{machine(device, given.commit).rstrip('.')}; {date.today()}."
    for said, text in part.measure(Setting(sizes, device, where, ends)):
        yield said, f"## {part.title}: {heading}\n{text}"


def _command(name: str, given: argparse.Namespace) -> list[str]:
    """What measures a part in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--device", given.device]
    command += ["--out", str(given.out), *(["--small"] if given.small else [])]
    return command + (["--commit", given.commit] if given.commit else [])


def _environment(device: str) -> dict[str, str]:
    """That of a part's process: this checkout comes first, installed or not."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return found if device == "cuda" else {**found, "CUDA_VISIBLE_DEVICES": ""}


def _parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no part {', '.join(map(repr, unknown))}; choose from {', '.join(PARTS)}."
        )
    return names


def _given(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; see the module's docstring."""
    parsed = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parsed.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART[,PART]")
    parsed.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parsed.add_argument("--small", action="store_true", help="small sizes: a trial of this script")
    parsed.add_argument("--out", type=Path, help=f"the report; on a GPU {REPORT.name} by default")
    parsed.add_argument("--commit", help="where there is no git: the commit, for the report")
    parsed.add_argument("--measure", choices=list(PARTS), help=argparse.SUPPRESS)
    given = parsed.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parsed.error("no CUDA device here; --device cpu --small --out FILE tries this script.")
    if given.out is None and (given.device == "cpu" or given.small):
        parsed.error("--device cpu and --small are not for the committed report; give --out FILE.")
    given.out = given.out or REPORT
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts one after another and print the report; return the exit status."""
    began, given = time.monotonic(), _given(arguments)
    if given.measure:
        serve(lambda: measured(given.measure, given))
        return 0
    if given.out.is_file() and given.out.read_text(encoding="utf-8") == NOT_YET:
        given.out.unlink()
    failed = []
    for name in given.only:
        part = PARTS[name]
        seconds = part.seconds * (1 if given.device == "cuda" else 4)
        told = events(_command(name, given), seconds, _environment(given.device))
        heading = f"## {part.title}: {given.device.upper()}\n"
        failed.append(keep(told, given.out, name, TITLE, heading, began))
    print(given.out.read_text(encoding="utf-8"))
    return int(any(failed))


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
