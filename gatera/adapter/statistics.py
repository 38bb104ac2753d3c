"""What gates do over many tokens: means and shares, summed up over any number of passes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gatera.adapter.functional import binary_entropy

LOW, HIGH = 0.1, 0.9
STATISTICS = ("mean", f"share_below_{LOW}", f"share_above_{HIGH}", "entropy")


class GateStatistics:
    """Sums over any number of forward passes, from which means and shares are read.

    To tell the tokens of the prompt from those of the answer, keep one for each:

    ```python
    prompt, answer = GateStatistics(), GateStatistics()
    for batch in batches:
        with record_gates(model) as gates:
            model(**batch)
        gates.add_to(prompt, tokens=batch["labels"] == -100)
        gates.add_to(answer, tokens=batch["labels"] != -100)
    prompt.overall(), answer.overall(), answer.modules()
    ```
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # names -> (modules, 5)

    def add(self, names: list[str], logits: Tensor, counted: Tensor | None) -> None:
        """Add gates given by their logits.

        Args:
            names: The modules.
            logits: (modules, *tokens).
            counted: Which tokens count, boolean (*tokens); None means all.
        """
        sums = _sums(logits.detach(), counted)
        key = tuple(names)
        self._sums[key] = self._sums[key] + sums if key in self._sums else sums

    def copy(self) -> GateStatistics:
        """Return an independent copy."""
        other = GateStatistics()
        other._sums = dict(self._sums)
        return other

    def modules(self) -> dict[str, dict[str, float]]:
        """Return {module: {mean, share_below_0.1, share_above_0.9, entropy}}.

        Modules of which no token was counted are left out.
        """
        totals: dict[str, Tensor] = {}
        for names, sums in self._sums.items():
            for name, row in zip(names, sums.cpu(), strict=True):
                totals[name] = totals[name] + row if name in totals else row
        return {
            name: dict(zip(STATISTICS, (row[1:] / row[0]).tolist(), strict=True))
            for name, row in totals.items()
            if row[0] > 0
        }

    def overall(self) -> dict[str, float]:
        """Return the mean over modules of each statistic; empty without gates."""
        return mean_over_modules(self.modules())


def mean_over_modules(modules: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each statistic over the modules; empty without modules."""
    if not modules:
        return {}
    return {
        name: sum(values[name] for values in modules.values()) / len(modules) for name in STATISTICS
    }


def _sums(logits: Tensor, counted: Tensor | None) -> Tensor:
    """Return (modules, 5): number of tokens counted, then the sums of the four statistics."""
    gate = torch.sigmoid(logits).flatten(1)
    values = torch.stack(
        [
            torch.ones_like(gate),
            gate,
            (gate < LOW).to(gate.dtype),
            (gate > HIGH).to(gate.dtype),
            binary_entropy(logits).flatten(1),
        ],
        dim=1,
    )  # (modules, 5, tokens)
    if counted is not None:
        values = values[:, :, counted.flatten()]
    return values.sum(-1, dtype=torch.float64 if values.device.type != "mps" else None)
