"""Numbers as words: one form for each kind of number, in every table and sentence.

Scores are in percent, differences in percentage points; a number that is missing is a dash.
"""

from __future__ import annotations

import math

from gatera.reports.judging.comparison import Comparison
from gatera.reports.judging.paired import MeanInterval, PairedDifference
from gatera.reports.tables import TableRow
from gatera.trial import Json

DASH = "—"


def percent(value: float | None) -> str:
    """Return a fraction in percent, two decimals."""
    return DASH if value is None else f"{100 * value:.2f}"


def share_of(value: float) -> str:
    """Return a fraction in percent, with its sign."""
    return f"{100 * value:.2f} %"


def points(value: float | None) -> str:
    """Return a difference of fractions in percentage points, signed."""
    return DASH if value is None else points_of(value)


def points_of(value: float) -> str:
    """Return a known difference of fractions in percentage points, signed."""
    return f"{100 * value:+.2f}"


def between(low: float, high: float) -> str:
    """Return the ends of an interval of differences."""
    return f"{points_of(low)} to {points_of(high)}"


def seeds_cell(row: TableRow) -> str:
    """Return the number of seeds, and of how many where some are missing."""
    have = len(row.seeds)
    return f"{have}" if have == row.planned else f"{have}/{row.planned}"


def average_cell(row: TableRow) -> str:
    """Return the average with its standard deviation over seeds."""
    spread = f" ± {100 * row.spread:.2f}" if row.spread is not None else ""
    return percent(row.average) + spread


def difference_cell(comparison: Comparison | None) -> str:
    """Return a paired difference with its interval; a dash where there is none."""
    if comparison is None:
        return DASH
    d = comparison.difference
    if not math.isfinite(d.low):
        return f"{points_of(d.mean)} [{DASH}]"
    return f"{points_of(d.mean)} [{points_of(d.low)}, {points_of(d.high)}]"


def pairs_cell(comparison: Comparison) -> str:
    """Return the number of seeds that a difference is over, and of how many."""
    pairs = comparison.difference.pairs
    return f"{pairs}" if pairs == comparison.planned else f"{pairs}/{comparison.planned}"


def crossed_cell(comparison: Comparison) -> str:
    """Return the bootstrap's interval."""
    crossed = comparison.crossed
    if crossed is None or not math.isfinite(crossed.low + crossed.high):
        return DASH
    return f"[{points_of(crossed.low)}, {points_of(crossed.high)}]"


def verdict_cell(comparison: Comparison | None) -> str:
    """Return a verdict and what it rests on, in a few words."""
    if comparison is None or comparison.verdict == "not tested":
        return DASH
    if comparison.diverged:
        return "none: seeds diverged"
    if comparison.difference.sd == 0:
        return "none: no spread"
    if not math.isfinite(comparison.adjusted_p):
        return "none: one seed"
    return f"{comparison.verdict} (p {p_value(comparison.adjusted_p)})"


def p_value(p: float) -> str:
    """Return a p-value to three decimals; a smaller one is said to be below, never zero."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def share_cell(value: float | None) -> str:
    """Return a share of parameters, to four decimals."""
    return DASH if value is None else f"{100 * value:.4f} %"


def printed_share(value: float | None) -> str:
    """Return a published share with the digits that were published."""
    return DASH if value is None else f"{100 * value:.6g} %"


def nats_cell(lost: MeanInterval | PairedDifference | None) -> str:
    """Return a change of a loss in nats, with its interval."""
    if lost is None:
        return DASH
    if not math.isfinite(lost.low):
        return f"{lost.mean:+.3f} [{DASH}]"
    return f"{lost.mean:+.3f} [{lost.low:+.3f}, {lost.high:+.3f}]"


def seconds_cell(value: float | None) -> str:
    """Return a time."""
    return DASH if value is None else f"{value:.1f} s"


def memory_cell(value: int | None) -> str:
    """Return an amount of memory."""
    return DASH if value is None else f"{value / 2**20:.0f} MiB"


def setting_cell(value: Json) -> str:
    """Return a value of a setting."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
