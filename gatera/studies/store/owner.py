"""Who holds a claim or a lock: processes by names that no other process ever has."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from gatera.trial import Json


def owner_of_this_process(worker: str) -> dict[str, Json]:
    """Return what a claim says of its owner; `claimed_at` is for people and decides nothing."""
    return {
        "worker": worker,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "claimed_at": time.time(),
    }


def worker_name() -> str:
    """Return the name of this worker: the one that its launcher gave it, else its process's."""
    return os.environ.get("GATERA_WORKER") or process_name(os.getpid())


def process_name(pid: int) -> str:
    """Return `<host>/<pid>/<start>` of a process on this machine.

    The start time, as the kernel counts it, tells it from a later process with the same number.
    """
    return f"{socket.gethostname()}/{pid}/{_start_time(pid)}"


def pid_of(name: str) -> int | None:
    """Return the number of the process called `name` if it runs on this machine, else None.

    None too of a name that is no process's, such as that of a scheduler's job.
    """
    host, _, rest = name.partition("/")
    pid, _, start = rest.partition("/")
    if not pid.isdigit():
        return None
    running = host == socket.gethostname() and _start_time(int(pid)) == start
    return int(pid) if running else None


def _start_time(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot; None where it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
