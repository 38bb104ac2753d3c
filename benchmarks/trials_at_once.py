"""Trials of the embedded scale that train at the same time on one device: how many a minute.

Each has a process of its own, as in a run, but one that trained before: loading takes longer than
such a trial. `gpu.py` measures with it.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import spread, table

# Settings of a trial that is over soon.
SHORT = {
    "train.max_steps": 2,
    "train.validation_every": 2,
    "train.validation_items": 8,
    "eval.limit": 2,
    "eval.knowledge": None,
}


@dataclass(frozen=True)
class AtOnce:
    """Trials that trained at the same time."""

    seconds: float  # until the last ended
    each: list[float]  # seconds
    peak_bytes: int  # the most that one of them allocated; 0 on a CPU
    used_bytes: int | None = None  # of the card's memory, by all; None on a CPU


def planned_trials(count: int, departures: Mapping[str, Any]) -> list[Any]:
    """GateRA's trials of Table 5, seeds 0 to count - 1; nothing else is asked of the studies."""
    from gatera.studies import catalog
    from gatera.studies.planning.enumeration import Request, make_plan

    asked = Request(seeds=count, variants=("gatera",), overrides=departures)
    return make_plan(catalog.load("ablation_table5"), asked).trials_of("gatera")


def train(trial: Any, folder: Path) -> None:
    """Train a trial and score it; `folder` then holds its adapter."""
    from gatera.training import fit
    from gatera.training.provenance import machine

    try:
        version("gatera")
    except PackageNotFoundError:  # a checkout that is not installed; nothing reads versions here
        machine.versions = dict
    fit(trial, folder, data_root=None)


def measure(
    counts: Sequence[int],
    departures: Mapping[str, Any],
    rounds: int,
    ends: float,
    device: torch.device,
) -> Iterator[tuple[str, dict[int, list[AtOnce]]]]:
    """Yield after each round its name, and all rounds so far by the number of processes.

    Args:
        counts: Processes at the same time, rising.
        departures: Settings that depart from the embedded scale's.
        rounds: Of each count at most; each gets one, others only in its share of the time.
        ends: `time.monotonic()` at which no round begins but a count's first.
        device: The one that the trials will choose.
    """
    on_gpu, began = device.type == "cuda", time.monotonic()
    trials, short = planned_trials(counts[-1], departures), planned_trials(1, SHORT)
    before = _used_bytes() if on_gpu else 0
    done: dict[int, list[AtOnce]] = {}
    for position, count in enumerate(counts, 1):
        share_ends = began + (ends - began) * position / len(counts)
        with _trainers(count) as pool:
            list(pool.map(_warm_up, short * count))
            for number in range(1, rounds + 1):
                at_once = _train_at_once(pool, trials[:count])
                used = _used_bytes() - before if on_gpu else None
                done.setdefault(count, []).append(replace(at_once, used_bytes=used))
                yield f"{count} at once, round {number}", done
                if time.monotonic() + at_once.seconds > share_ends:
                    break


def _used_bytes() -> int:
    """Bytes of the card's memory in use, by all processes."""
    free, total = torch.cuda.mem_get_info()
    return total - free


_together: Barrier  # of a trainer: where all meet before they are timed


def _trainers(count: int) -> ProcessPoolExecutor:
    """So many processes; they start anew, as the framework's do where there is a GPU."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, _meet_at, (context.Barrier(count),))


def _meet_at(barrier: Barrier) -> None:
    global _together
    _together = barrier


def _warm_up(trial: Any) -> None:
    """Train for the first time in this process, and wait for the others to have done so."""
    try:
        _timed_trial(trial)
    finally:
        _together.wait()


def _timed_trial(trial: Any) -> tuple[float, int]:
    """Seconds of a trial with one thread, and the most bytes that it allocated on a GPU."""
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(trial, Path(folder))
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() if on_gpu else 0


def _train_at_once(pool: ProcessPoolExecutor, trials: Sequence[Any]) -> AtOnce:
    began = time.perf_counter()
    found = list(pool.map(_timed_trial, trials))
    seconds = time.perf_counter() - began
    return AtOnce(seconds, [each for each, _ in found], max(peak for _, peak in found))


def render(done: Mapping[int, Sequence[AtOnce]], departures: Mapping[str, Any], where: str) -> str:
    """The text and the table of what was measured at `where`."""
    rates = {count: [60 * count / one.seconds for one in rounds] for count, rounds in done.items()}
    rows = []
    for count, rounds in done.items():
        peak, used = max(one.peak_bytes for one in rounds), rounds[-1].used_bytes
        rows.append(
            [
                f"{count}",
                f"{len(rounds)}",
                spread(rates[count], 2),
                f"{median(rates[count]) / median(rates[min(rates)]):.2f}",
                spread([seconds for one in rounds for seconds in one.each], 1),
                f"{peak / 2**20:.0f}" if peak else "–",
                "–" if used is None else f"{used / 2**30:.2f}",
            ]
        )
    named = ", ".join(f"{name} = {value}" for name, value in departures.items())
    how = (
        "\nGateRA's trials of `ablation_table5` at the embedded scale, trained and scored, each "
        "with its own seed and its own process, which has one thread and has trained before: its "
        f"start is not counted.{f' Settings: {named}.' if named else ''} *Peak of one*: "
        "the most that one trial allocates. *Memory of all*: what the processes take of the "
        f"card's, their contexts included.\n\nMeasured on: {where}\n\n"
    )
    header = ["processes", "rounds", "trials a minute", "× the first row", "a trial, s"]
    return how + table([*header, "peak of one, MiB", "memory of all, GiB"], rows)
