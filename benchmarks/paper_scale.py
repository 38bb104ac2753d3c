"""What every study would take at the paper's scale, computed: hours, memory, money.

    python benchmarks/paper_scale.py [--price 2.5]

Writes reports/benchmarks/paper_scale.md from `plan --scale paper` of each study. Needs no data, no
hub and no GPU; a few minutes. The price is that of an hour of one H100, in whatever money you pay.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import gatera.studies as gs
from gatera.studies.catalog import entries

_PRICE = 2.5  # a GPU hour, as several clouds ask for an H100


@dataclass(frozen=True)
class Cost:
    """What one study takes."""

    study: str
    trials: int
    tuning: int
    hours: float | None  # of one GPU; None where the size of the data is not known
    memory_gib: float | None
    dearest: str  # the row whose trials take longest, with its hours


def cost_of(study: str) -> Cost:
    """Return what a study takes, as its plan computes it."""
    planned = gs.plan(study, scale="paper")
    gpu, tuning = planned.answer["estimate"]["gpu"], planned.answer["tuning"]
    of_rows = {row.variant: row.gpu_hours for row in planned.rows.itertuples()}
    longest = max(of_rows, key=lambda name: of_rows[name] or 0.0)
    return Cost(
        study,
        len(planned.answer["trials"]),
        0 if tuning is None else int(tuning["counts"]["planned"]),
        None if gpu is None else float(gpu["hours"]),
        None if gpu is None else float(gpu["memory_gib"]),
        "—" if gpu is None else f"{longest}, {of_rows[longest]:.1f} h",
    )


def text(costs: list[Cost], price: float) -> str:
    """Return the page."""
    known = [cost for cost in costs if cost.hours is not None]
    lines = [
        "# What the studies take at the paper's scale",
        "",
        "Computed, not measured: a count of operations over a third of an H100's peak",
        "(`gatera/studies/planning/gpu_cost.py`), all trials one after another, tuning trials",
        "included. `run --rehearse` on your own card replaces it by what was measured there.",
        "",
        f"| study | trials | tuning trials | hours of one H100 | at {price:g} an hour | "
        "memory, GiB | its longest trial |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_line(cost, price) for cost in costs),
        "",
        f"Together {sum(cost.hours or 0.0 for cost in known):,.0f} hours where no trial is shared. "
        "In one store the trials that studies have in common run once, and it is less. A dash: "
        "nothing is tuned, or the size of the study's data is not known.",
        "",
        "Made by `python benchmarks/paper_scale.py`.",
    ]
    return "\n".join(lines) + "\n"


def _line(cost: Cost, price: float) -> str:
    of_gpu = ("—",) * 3
    if cost.hours is not None and cost.memory_gib is not None:
        of_gpu = (f"{cost.hours:,.0f}", f"{cost.hours * price:,.0f}", f"{cost.memory_gib:.0f}")
    cells = (cost.study, str(cost.trials), str(cost.tuning or "—"), *of_gpu, cost.dearest)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--price", type=float, default=_PRICE, help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parents[1] / "reports" / "benchmarks" / "paper_scale.md",
    )
    options = parser.parse_args()
    costs = []
    for entry in entries():
        costs.append(cost_of(entry.name))
        print(costs[-1], flush=True)
    options.out.write_text(text(costs, options.price), encoding="utf-8")


if __name__ == "__main__":
    main()
