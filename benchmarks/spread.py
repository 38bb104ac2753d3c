"""How well the embedded scale tells rows apart: the spread over seeds that no table uses.

    python benchmarks/spread.py --store DIR [--workers 2]

Runs the rows of Table 5 with seeds 100 to 119 (`spread_table5.py`), times the main job in a fresh
store, which writes its own report anew, and writes reports/benchmarks/spread.md. Killed, the same
command goes on. Twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import busy, describe_machine

from gatera import tasks
from gatera.reports.records import StudyRecord
from gatera.reports.tables import FROZEN, Table, build_table
from gatera.studies.gathering.gather import gather
from gatera.studies.store.store import Store

STUDY = Path(__file__).with_name("spread_table5.py")
PLAN_ID = "spread_table5.tiny"

# What is asked of the embedded scale, in points and seconds.
MOST_SPREAD, MOST_BELOW = 2.5, 15.0
LOWEST, HIGHEST = 65.0, 93.0
MAIN_JOB_SECONDS = 300.0


@dataclass(frozen=True)
class Row:
    """One trained row over the seeds, in percent."""

    variant: str
    averages: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.averages)

    @property
    def spread(self) -> float:
        return statistics.stdev(self.averages)

    @property
    def below(self) -> float:
        """How far the lowest seed lies below the mean."""
        return self.mean - min(self.averages)


def run(name: str, store: Path, workers: int, reports: Path) -> float:
    """Run a study; return the seconds that it took."""
    command = [sys.executable, "-m", "gatera.studies", "run", name, "--store", str(store)]
    command += ["--report-dir", str(reports), "--workers", str(workers)]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def rows_of(table: Table) -> list[Row]:
    """Return the trained rows."""
    return [
        Row(row.variant, [100 * value for value in row.average_by_seed.values()])
        for row in table.rows
        if row.variant != FROZEN
    ]


def bars(table: Table, main_job: float) -> Iterator[tuple[str, str, str, bool]]:
    """Yield what is asked, the bar, what was measured, and whether it holds."""
    rows = rows_of(table)
    spread, below = max(row.spread for row in rows), max(row.below for row in rows)
    low, high = min(row.mean for row in rows), max(row.mean for row in rows)
    yield (
        "largest standard deviation over seeds of a row",
        f"≤ {MOST_SPREAD} points",
        f"{spread:.2f}",
        spread <= MOST_SPREAD,
    )
    yield (
        "farthest seed below its row's mean",
        f"≤ {MOST_BELOW:g} points",
        f"{below:.2f}",
        below <= MOST_BELOW,
    )
    yield (
        "means of the rows",
        f"{LOWEST:g} to {HIGHEST:g} %",
        f"{low:.2f} to {high:.2f}",
        low >= LOWEST and high <= HIGHEST,
    )
    above = [each for each in frozen_by_task(table) if each[1] > each[2]]
    said = ", ".join(f"{task} {score:.1f} of {chance:.1f}" for task, score, chance in above)
    yield ("frozen backbone above chance", "on no task", said or "on none", not above)
    yield (
        "main job (`run ablation_table5`)",
        f"≤ {MAIN_JOB_SECONDS:g} s",
        f"{main_job:.0f}",
        main_job <= MAIN_JOB_SECONDS,
    )


def frozen_by_task(table: Table) -> list[tuple[str, float, float]]:
    """Return task, the frozen backbone's accuracy and that of guessing, in percent."""
    frozen = table.row(FROZEN)
    assert frozen is not None
    found = []
    for task, score in frozen.scores.items():
        chance = tasks.find(task).chance
        assert score is not None
        assert chance is not None
        found.append((task, 100 * score, 100 * chance))
    return found


def phases(record: StudyRecord) -> dict[str, float]:
    """Return the median seconds that a trained trial spent in each phase."""
    names = {
        "training": "train_seconds",
        "validation": "validation_seconds",
        "scoring": "eval_seconds",
    }
    trained = [result for result in record.results if not result.is_frozen]
    return {
        phase: statistics.median(float(result.measured[name]) for result in trained)
        for phase, name in names.items()
    }


def report(record: StudyRecord, main_job: float, workers: int, load: str) -> str:
    """Return the report as markdown."""
    table = build_table(record)
    config = next(r for r in record.results if not r.is_frozen).config
    train = config["train"]
    lines = [
        "# How well the embedded scale tells rows apart",
        "",
        f"The rows of Table 5, seeds 100 to 119, which no table uses. {describe_machine()}; "
        f"{workers} workers of one thread; {load} at the start.",
        "",
        "| asked | bar | measured | holds |",
        "|---|---|---|---|",
        *(
            f"| {what} | {bar} | {found} | {'yes' if holds else '**no**'} |"
            for what, bar, found, holds in bars(table, main_job)
        ),
        "",
        _in_words(table),
        "",
        "Other settings and worlds that were tried: [spread_tried.md](spread_tried.md).",
        "",
        "## Rows",
        "",
        "Average accuracy over the tasks, in %.",
        "",
        "| row | seeds | mean | SD over seeds | lowest seed | highest seed |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.variant} | {len(row.averages)} | {row.mean:.2f} | {row.spread:.2f} | "
            f"{min(row.averages):.2f} | {max(row.averages):.2f} |"
            for row in rows_of(table)
        ),
        "",
        "## Endpoints",
        "",
        "The standard deviation of the rows' means beside that over seeds within a row (pooled "
        "over rows), both times 100.",
        "",
        "| endpoint | between rows | within a row | ratio |",
        "|---|---|---|---|",
        *(
            f"| {each.endpoint} | {100 * each.between:.2f} | {100 * each.within:.2f} | "
            f"{'—' if each.ratio is None else f'{each.ratio:.2f}'} |"
            for each in table.signals
        ),
        "",
        "## The frozen backbone",
        "",
        "| task | accuracy, % | guessing, % |",
        "|---|---|---|",
        *(
            f"| {task} | {score:.1f} | {chance:.1f} |"
            for task, score, chance in frozen_by_task(table)
        ),
        "",
        "## Time",
        "",
        "A trained trial, median: "
        + ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in phases(record).items())
        + f". {train['max_steps']} steps of {train['batch_size']} items.",
    ]
    return "\n".join(lines) + "\n"


def _in_words(table: Table) -> str:
    """Say how far rows lie apart beside the seeds."""
    rows, (accuracy, *_) = rows_of(table), table.signals
    apart = max(row.mean for row in rows) - min(row.mean for row in rows)
    return (
        f"Seeds are steady: a row scatters by {100 * accuracy.within:.2f} points. The rows' means "
        f"lie {apart:.2f} points apart: these four differ little here, and what tells them apart "
        "must be small, or lie elsewhere than in accuracy."
    )


def main() -> int:
    """Run the benchmark and write its report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/spread.md"))
    options = parser.parse_args()
    load = busy()
    run(str(STUDY), options.store, options.workers, options.store / "reports")
    with tempfile.TemporaryDirectory() as folder:
        store, reports = Path(folder) / "store", options.report.parents[1]
        main_job = run("ablation_table5", store, options.workers, reports)
    store = Store(options.store)
    text = report(gather(store, store.plan(PLAN_ID)), main_job, options.workers, load)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
