"""What a trained adapter's gates do on test items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gatera.adapter import GateStatistics, record_gates
from gatera.tasks.decoding import padding_token
from gatera.training.data import collate
from gatera.training.evaluation.likelihood import token_loss
from gatera.training.evaluation.scoring import Questions

HISTOGRAM_BINS = 20  # equal bins from 0 to 1
ITEMS_PER_TASK = 32  # the first of each test set; gates vary between layers, little between items


def survey_gates(
    model: Any, tokenizer: Any, asked: Sequence[Questions], batch_size: int
) -> dict[str, Any]:
    """Return gate statistics over prompts followed by their right responses.

    Args:
        model: The adapted model; it is left in evaluation mode.
        tokenizer: Its tokenizer.
        asked: The test items of each task, of which the first `ITEMS_PER_TASK` are used.
        batch_size: Items in a forward pass.

    Returns:
        {"overall", "prompt", "answer": {mean, share_below_0.1, share_above_0.9, entropy, and
        share_skipped with a threshold}, each the mean over modules; "modules": {module: the same
        over all tokens}; "tasks": {task: {"prompt", "answer": the same}}; "histogram": share of
        gates in each of `HISTOGRAM_BINS` equal bins, mean over modules; "items"}. Empty where
        nothing is gated. Prompt tokens include the last, which predicts the first of the answer.
    """
    model.eval()
    overall = _Histogram()
    of_tasks: dict[str, dict[str, GateStatistics]] = {}
    pad = padding_token(tokenizer)
    items = 0
    for questions in asked:
        of_task = _by_part()
        of_tasks[questions.items[0].task] = of_task
        places = list(range(min(ITEMS_PER_TASK, len(questions))))
        items += len(places)
        for start in range(0, len(places), batch_size):
            batch = collate(questions.encoded, places[start : start + batch_size], pad)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with torch.no_grad(), record_gates(model, batch["attention_mask"]) as gates:
                token_loss(model, batch)
            if not gates.overall():
                return {}
            gates.add_to(overall)
            gates.add_to(of_task["prompt"], tokens=1 - batch["answer_mask"])
            gates.add_to(of_task["answer"], tokens=batch["answer_mask"])
    every = _by_part()
    for of_task in of_tasks.values():
        for part, statistics in of_task.items():
            every[part].add_all(statistics)
    return {
        "overall": overall.overall(),
        **_means(every),
        "modules": overall.modules(),
        "tasks": {task: _means(of_task) for task, of_task in of_tasks.items()},
        "histogram": overall.histogram(),
        "items": items,
    }


def _by_part() -> dict[str, GateStatistics]:
    return {"prompt": GateStatistics(), "answer": GateStatistics()}


def _means(of_parts: Mapping[str, GateStatistics]) -> dict[str, dict[str, float]]:
    return {part: statistics.overall() for part, statistics in of_parts.items()}


class _Histogram(GateStatistics):
    """Gate statistics that also count the gates' values by bins."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Tensor] = {}  # module -> (bins,)

    def add(
        self, names: list[str], logits: Tensor, counted: Tensor | None, threshold: float = 0.0
    ) -> None:
        """Add gates given by their logits, (modules, *values), of the values that count."""
        super().add(names, logits, counted, threshold)
        values = torch.sigmoid(logits.detach().float()).flatten(1).cpu()
        if counted is not None:
            values = values[:, counted.flatten().cpu()]
        for name, row in zip(names, values, strict=True):
            found = torch.histc(row, HISTOGRAM_BINS, 0.0, 1.0)
            self._counts[name] = self._counts.get(name, torch.zeros(HISTOGRAM_BINS)) + found

    def histogram(self) -> list[float]:
        """Return the share of each bin, every module counted alike."""
        shares = [row.double() / row.sum() for row in self._counts.values() if row.sum() > 0]
        return [float(share) for share in torch.stack(shares).mean(0)]
