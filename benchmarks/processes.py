"""The processes of a run, found from outside: its workers, and the trials that they run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from gatera.studies.store.owner import pid_of


@dataclass(frozen=True)
class Running:
    """A worker that is alive, and the process of the trial that it runs."""

    worker: int
    trial: int | None


def running(store: Path) -> list[Running]:
    """Return the living workers that a supervisor noted in the store, with their trials."""
    children = _children()
    pids = [pid for name in noted(store) if (pid := pid_of(name)) is not None]
    return [Running(pid, _trial_of(pid, children)) for pid in pids]


def noted(store: Path) -> list[str]:
    """Return the ids of all workers that supervisors noted in the store, alive or not."""
    try:
        by_engine = json.loads((store / "workers.json").read_text())
    except (FileNotFoundError, ValueError):
        return []
    return [name for names in by_engine.values() for name in names]


def _trial_of(worker: int, children: dict[int, list[int]]) -> int | None:
    """Return the trial's process: a child of the worker's forkserver, or of the worker."""
    for child in children.get(worker, []):
        command = _command(child)
        if "multiprocessing.spawn" in command:
            return child
        if "multiprocessing.forkserver" in command:
            return next(iter(children.get(child, [])), None)
    return None


def _children() -> dict[int, list[int]]:
    """Return the living children of each process."""
    found: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found.setdefault(int(parent), []).append(int(folder.name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; return whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
