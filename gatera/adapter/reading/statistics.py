"""What gates do over many tokens: means and shares, summed up over any number of passes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gatera.adapter.kernels.functional import binary_entropy

LOW, HIGH = 0.1, 0.9
STATISTICS = ("mean", f"share_below_{LOW}", f"share_above_{HIGH}", "entropy")
SKIPPED = "share_skipped"


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
        self._sums: dict[tuple[str, ...], Tensor] = {}  # names -> (modules, 6)
        self._skips = False

    def add(
        self, names: list[str], logits: Tensor, counted: Tensor | None, threshold: float = 0.0
    ) -> None:
        """Add gates given by their logits.

        Args:
            names: The modules.
            logits: (modules, *values).
            counted: Which values count, boolean (*values); None means all.
            threshold: The value below which a gate counts as closed; 0 closes none.
        """
        self._skips = self._skips or threshold > 0.0
        self._add(tuple(names), _sums(logits.detach(), counted, threshold))

    def add_all(self, other: GateStatistics) -> None:
        """Add all that another one holds."""
        self._skips = self._skips or other._skips
        for names, sums in other._sums.items():
            self._add(names, sums)

    def _add(self, names: tuple[str, ...], sums: Tensor) -> None:
        self._sums[names] = self._sums[names] + sums if names in self._sums else sums

    def modules(self) -> dict[str, dict[str, float]]:
        """Return {module: {mean, share_below_0.1, share_above_0.9, entropy}}.

        With a threshold there is "share_skipped" too. Modules of which no token was counted are
        left out.
        """
        names_of_columns = (*STATISTICS, SKIPPED) if self._skips else STATISTICS
        totals: dict[str, Tensor] = {}
        for names, sums in self._sums.items():
            for name, row in zip(names, sums.cpu(), strict=True):
                totals[name] = totals[name] + row if name in totals else row
        return {
            name: dict(zip(names_of_columns, (row[1:] / row[0]).tolist(), strict=False))
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
    names = next(iter(modules.values()))
    return {name: sum(values[name] for values in modules.values()) / len(modules) for name in names}


def _sums(logits: Tensor, counted: Tensor | None, threshold: float) -> Tensor:
    """Return (modules, 6): number of values counted, then the sums of the statistics."""
    gate = torch.sigmoid(logits).flatten(1)
    values = torch.stack(
        [
            torch.ones_like(gate),
            gate,
            (gate < LOW).to(gate.dtype),
            (gate > HIGH).to(gate.dtype),
            binary_entropy(logits).flatten(1),
            (gate < threshold).to(gate.dtype),
        ],
        dim=1,
    )  # (modules, 6, values)
    if counted is not None:
        values = values[:, :, counted.flatten()]
    return values.sum(-1, dtype=torch.float64 if values.device.type != "mps" else None)
