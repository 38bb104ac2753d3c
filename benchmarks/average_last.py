"""How much of the spread over seeds goes where the last weights are averaged.

    python benchmarks/average_last.py --store DIR [--workers 2]

Runs GateRA on twenty seeds that no table uses, with the checkpoint that validation found best and
with the mean of the last 2 and 4 (`average_last_study.py`), and writes
reports/benchmarks/average_last.md. Killed, the same command goes on. Ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from machine import busy, describe_machine
from scipy import stats
from spread import run

from gatera.reports.tables import FROZEN, Table, build_table
from gatera.studies.gathering.gather import gather
from gatera.studies.store.store import Store

STUDY = Path(__file__).with_name("average_last_study.py")
PLAN_ID = "average_last_study.tiny"


def same_spread(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value of equal variances of paired values: the Pitman-Morgan test.

    Sums and differences of two paired samples are uncorrelated just where their variances agree.
    """
    sums = [a + b for a, b in zip(first, second, strict=True)]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return float(stats.pearsonr(sums, differences).pvalue)


def report(table: Table, workers: int, load: str) -> str:
    """Return the report as markdown."""
    of = {r.variant: list(r.average_by_seed.values()) for r in table.rows if r.variant != FROZEN}
    best = of[table.record.reference]
    lines = []
    for name, averages in of.items():
        spread = 100 * statistics.stdev(averages)
        ratio = statistics.stdev(averages) / statistics.stdev(best)
        beside = ("—", "—") if averages is best else (f"{ratio:.2f}", _p(averages, best))
        lines.append(
            f"| {name} | {len(averages)} | {100 * statistics.fmean(averages):.2f} | {spread:.2f} | "
            f"{100 * min(averages):.2f} | {beside[0]} | {beside[1]} |"
        )
    return (
        "\n".join(
            [
                "# The best checkpoint, or the mean of the last",
                "",
                "GateRA at `tiny`, seeds 100 to 119, which no table uses; eight validations a run. "
                "`best` keeps the weights that validation found best, `last_2` and `last_4` the "
                "mean of the weights at the last 2 and 4 validations (`train.average_last`). "
                f"{describe_machine()}; {workers} workers of one thread; {load} at the start.",
                "",
                _in_words(of, best),
                "",
                "Average accuracy over the tasks, in %.",
                "",
                "| row | seeds | mean | SD over seeds | lowest seed | SD beside `best` | p |",
                "|---|---|---|---|---|---|---|",
                *lines,
                "",
                "p is that of equal variances of paired seeds (Pitman-Morgan), not adjusted.",
            ]
        )
        + "\n"
    )


def _p(first: Sequence[float], second: Sequence[float]) -> str:
    p = same_spread(first, second)
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _in_words(of: dict[str, list[float]], best: list[float]) -> str:
    """Say how much of the spread goes."""
    said = []
    for name, averages in of.items():
        if averages is not best:
            gone = 1 - statistics.stdev(averages) / statistics.stdev(best)
            how = "less" if gone > 0 else "more"
            told = (
                ""
                if same_spread(averages, best) < 0.05
                else ", which these seeds cannot tell from none"
            )
            said.append(f"`{name}` scatters {100 * abs(gone):.0f} % {how} than `best`{told}")
    return "; ".join(said) + "."


def main() -> int:
    """Run the benchmark and write its report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/average_last.md"))
    options = parser.parse_args()
    load = busy()
    run(str(STUDY), options.store, options.workers, options.store / "reports")
    store = Store(options.store)
    text = report(build_table(gather(store, store.plan(PLAN_ID))), options.workers, load)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
