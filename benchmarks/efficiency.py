"""How soon a run trains, and what a second worker brings.

    python benchmarks/efficiency.py [--rounds 3] [--trials 6] [--steps 120]

Runs the same real trials with one worker and with two, in turn, each in a fresh store, and writes
reports/benchmarks/efficiency.md. Each worker computes on one core: use an idle machine with two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from machine import busy, describe_machine


@dataclass(frozen=True)
class Timing:
    """One run."""

    workers: int
    first_step_seconds: float  # from the command to the first line of a training step
    work_seconds: float  # from there to the last result


def time_run(workers: int, trials: int, steps: int, folder: Path) -> Timing:
    """Run `trials` real trials with `workers` workers in a fresh store."""
    store = folder / "store"
    command = [sys.executable, "-m", "gatera.studies", "run", "ablation_table5"]
    command += ["--variants", "gatera", "--seeds", str(trials), "--workers", str(workers)]
    command += ["--set", f"train.max_steps={steps}", "--set", f"train.validation_every={steps}"]
    command += ["--set", "eval.limit=20", "--store", str(store)]
    command += ["--report-dir", str(folder / "reports")]
    began = time.time()
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    first = None
    while process.poll() is None:
        if first is None and _trains(store):
            first = time.time()
        time.sleep(0.02)
    if process.returncode != 0 or first is None:
        raise SystemExit((folder / "run.log").read_text())
    last = max(path.stat().st_mtime for path in store.glob("trials/*/result.json"))
    return Timing(workers, first - began, last - first)


def _trains(store: Path) -> bool:
    """Return whether a trial has trained a step."""
    paths = store.glob("trials/*/attempts/1/metrics.jsonl")
    return any('"phase": "train"' in path.read_text() for path in paths)


def main() -> int:
    """Run the benchmark and write its report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6, help="a multiple of two")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/efficiency.md"))
    options = parser.parse_args()
    load, found = busy(), []
    for _ in range(options.rounds):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                found.append(time_run(workers, options.trials, options.steps, Path(folder)))
            print(json.dumps(dataclasses.asdict(found[-1])), file=sys.stderr, flush=True)
    text = _report(found, options.trials, options.steps, load)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text, encoding="utf-8")
    print(text)
    return 0


def _report(found: list[Timing], trials: int, steps: int, load: str) -> str:
    work = {n: statistics.median(t.work_seconds for t in found if t.workers == n) for n in (1, 2)}
    first = [t.first_step_seconds for t in found]
    each = {n: ", ".join(f"{t.work_seconds:.1f}" for t in found if t.workers == n) for n in (1, 2)}
    rows = [
        (
            "seconds from `run` to the first training step, median",
            f"{statistics.median(first):.1f}",
        ),
        ("the same, from and to", f"{min(first):.1f} to {max(first):.1f}"),
        ("seconds of work, 1 worker, median (each)", f"{work[1]:.1f} ({each[1]})"),
        ("seconds of work, 2 workers, median (each)", f"{work[2]:.1f} ({each[2]})"),
        ("efficiency of 2 workers", f"{work[1] / (2 * work[2]):.2f}"),
    ]
    return "\n".join(
        [
            "# Start and efficiency of a run",
            "",
            f"{trials} trials of {steps} steps at the embedded scale, each with one thread, and "
            f"the frozen backbone; {len(found) // 2} runs with one worker and as many with two, in "
            "turn, each in a fresh store. Work is timed from the first training step to the last "
            "result; efficiency is the time of one worker over twice that of two.",
            "",
            "| measured | |",
            "| --- | ---: |",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            f"Measured on {describe_machine()}; {load} at the start. "
            "Made by `python benchmarks/efficiency.py`.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
