"""Answering real test items by the framework's scoring, beside plain loops over the same model.

    python benchmarks/evaluation.py [--items 32] [--at-once 8] [--rounds 3] [--data-root DIR]

SmolLM2-135M with a fresh GateRA on ARC-e and BoolQ, greedy, float32, one thread. *Plain* is what
one writes without the framework: batches in data order, `generate` for decoding, a row for each
option for `choice`. All take turns, and answers are compared item by item. Writes
reports/benchmarks/evaluation.md. Needs the wheel of SmolLM2 and the files of both benchmarks.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import interleaved_rounds, machine, progress, ratios, spread, table
from torch.nn import functional

from gatera import backbones, tasks
from gatera.tasks.decoding import Decoding, padding_token
from gatera.tasks.mixture import Item
from gatera.tasks.prompts import render_prompt
from gatera.training.adapting import adapt
from gatera.training.evaluation.choices import may_pack
from gatera.training.evaluation.scoring import Answering, Questions, answer

REPORT = Path(__file__).resolve().parents[1] / "reports" / "benchmarks" / "evaluation.md"
TASKS = ("arc_easy", "boolq")
TEMPLATE, NEW_TOKENS = "alpaca", 16
SECTION = {
    "method": "gatera",
    "r": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
}


@dataclass(frozen=True)
class Asked:
    """What is answered, by what, how."""

    model: Any
    tokenizer: Any
    items: Sequence[Item]
    at_once: int

    def by_framework(self, *, chooses: bool) -> list[str]:
        """Return the answers as scoring finds them."""
        items = list(self.items)
        questions = Questions.of(items, None, self.tokenizer, TEMPLATE, None)
        decoding = Decoding(NEW_TOKENS, 1, self.at_once)
        how = Answering(decoding, chooses, weighs=chooses, packs=may_pack(self.model, "token"))
        found = answer(self.model, self.tokenizer, questions, how)
        return [each.output if chooses else str(each.extracted) for each in found]

    def by_generate(self) -> list[str]:
        """Return the answers out of `generate`, batch by batch in data order."""
        texts: list[str] = []
        for start in range(0, len(self.items), self.at_once):
            batch = self._batch([self._prompt(i) for i in self.items[start : start + self.at_once]])
            with torch.no_grad():
                output = self.model.generate(
                    **batch,
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    eos_token_id=self.tokenizer.eos_token_id,
                    pad_token_id=padding_token(self.tokenizer),
                )
            new = output[:, batch["input_ids"].shape[1] :]
            texts += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        pairs = zip(self.items, texts, strict=True)
        return [str(tasks.find(item.task).extract(text)) for item, text in pairs]

    def by_rows(self) -> list[str]:
        """Return the likeliest options: prompt and option in a row of its own, in data order."""
        rows = [(self._prompt(i), option) for i in self.items for option in i.example.options]
        weighed: list[float] = []
        for start in range(0, len(rows), self.at_once):
            weighed += self._weigh(rows[start : start + self.at_once])
        found, values = [], iter(weighed)
        for item in self.items:
            options = item.example.options
            of_options = [next(values) for _ in options]
            found.append(options[of_options.index(max(of_options))])
        return found

    def _weigh(self, rows: Sequence[tuple[str, str]]) -> list[float]:
        """Return the log-likelihood of each response, its end included."""
        prompts = self.tokenizer([prompt for prompt, _ in rows])["input_ids"]
        options = self.tokenizer([text for _, text in rows], add_special_tokens=False)["input_ids"]
        responses = [[*ids, self.tokenizer.eos_token_id] for ids in options]
        longest = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
        ids = torch.full((len(rows), longest), padding_token(self.tokenizer))
        mask, learned = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            ids[row, longest - len(prompt) - len(response) :] = torch.tensor([*prompt, *response])
            mask[row, longest - len(prompt) - len(response) :] = 1
            learned[row, longest - len(response) :] = True
        with torch.no_grad():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        scores = functional.log_softmax(logits[:, :-1].float(), -1)
        of_tokens = scores.gather(-1, ids[:, 1:, None])[..., 0]
        return list((of_tokens * learned[:, 1:]).sum(1).tolist())

    def _prompt(self, item: Item) -> str:
        return render_prompt(TEMPLATE, item.example)

    def _batch(self, prompts: list[str]) -> dict[str, Any]:
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}


def measured(asked: Asked, rounds: int) -> list[list[str]]:
    """Return the table's rows: a way of answering each."""
    found: dict[str, list[str]] = {}
    ways: dict[str, Callable[[], list[str]]] = {
        "decoding": lambda: asked.by_framework(chooses=False),
        "generate": asked.by_generate,
        "choice": lambda: asked.by_framework(chooses=True),
        "rows": asked.by_rows,
    }

    def step(name: str) -> None:
        found[name] = ways[name]()

    steps = {name: lambda name=name: step(name) for name in ways}  # type: ignore[misc]
    seconds: list[dict[str, float]] = []
    for each in interleaved_rounds(steps, rounds, torch.device("cpu")):
        seconds.append(each)
        progress(f"{asked.items[0].task}: {each}")
    told = []
    for ours, plain in (("decoding", "generate"), ("choice", "rows")):
        one, other = ([each[name] for each in seconds] for name in (ours, plain))
        unequal = sum(a != b for a, b in zip(found[ours], found[plain], strict=True))
        faster = spread(ratios(other, one), 2)
        told.append([ours, f"{len(asked.items) / median(one):.2f}", faster, str(unequal)])
    agreed = _agreement(asked, found["decoding"], found["choice"])
    return [[asked.items[0].task, str(len(asked.items)), *row, agreed] for row in told]


def _agreement(asked: Asked, decoded: Sequence[str], chosen: Sequence[str]) -> str:
    """Return how many items with a decoded answer have the same one by choice."""
    pairs = [
        (text, str(tasks.find(item.task).extract(option)))
        for item, text, option in zip(asked.items, decoded, chosen, strict=True)
        if text != "None"
    ]
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=32, help="of each task")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--backbone", default="smollm2")
    parser.add_argument("--out", type=Path, default=REPORT)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    backbone = backbones.load(given.backbone)
    model = adapt(backbone.model, SECTION, 0).eval()
    if backbone.tokenizer.pad_token is None:
        backbone.tokenizer.pad_token = backbone.tokenizer.eos_token
    rows = []
    for task in TASKS:
        examples = tasks.load(task, "test", given.data_root)[: given.items]
        items = [Item(task, example) for example in examples]
        rows += measured(Asked(model, backbone.tokenizer, items, given.at_once), given.rounds)
    header = ("task", "items", "by", "items a second", "plain ÷ framework", "unequal answers")
    text = (
        "# Answering test items\n\n"
        "The framework's scoring beside plain loops: same model, items and precision, taking "
        f"turns, median [quartiles] of {given.rounds} rounds. {given.backbone} with a fresh "
        f"GateRA, float32, batches of {given.at_once}, prompts of the template {TEMPLATE}, "
        f"greedy. *decoding* is compared with `generate` (up to {NEW_TOKENS} tokens) in data "
        "order, *choice* with a row of prompt and option for each option. A ratio above 1 says "
        "that the framework is faster. The last column counts, of the items that have a decoded "
        "answer, those whose likeliest option says the same.\n\n"
        f"{table((*header, 'decoding and choice agree'), rows)}\n"
        f"Measured on: {machine(torch.device('cpu'))}\n\n"
        "Made by `python benchmarks/evaluation.py`.\n"
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
