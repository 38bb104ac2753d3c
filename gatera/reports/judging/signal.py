"""How well a score tells rows apart: their spread, beside that of the seeds within a row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """The spreads of one endpoint, as standard deviations of averages over tasks."""

    endpoint: str
    between: float  # of the rows' means over seeds
    within: float  # over seeds within a row, pooled: the root of the mean variance

    @property
    def ratio(self) -> float | None:
        """Signal over noise; None without noise."""
        return self.between / self.within if self.within > 0 else None


def signal(endpoint: str, averages: Mapping[str, Mapping[int, float]]) -> Signal | None:
    """Return the spreads of an endpoint; None with fewer than two rows of two seeds or more.

    Args:
        endpoint: Its name.
        averages: Row -> seed -> average, of the trained rows.
    """
    rows = [list(by_seed.values()) for by_seed in averages.values() if len(by_seed) > 1]
    if len(rows) < 2:
        return None
    between = statistics.stdev(statistics.fmean(row) for row in rows)
    within = math.sqrt(statistics.fmean(statistics.variance(row) for row in rows))
    return Signal(endpoint, between, within)
