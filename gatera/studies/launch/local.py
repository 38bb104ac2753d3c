"""Workers as processes on this machine: one a GPU, or a CPU slot with pinned threads."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from gatera.studies.interrupts import held_back
from gatera.studies.store.owner import pid_of, process_name
from gatera.training.provenance.gpus import visible_gpus

_STOP_SECONDS = 30.0  # between asking a worker to end and ending it; as long as SLURM waits
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalLauncher:
    """Starts workers as processes in sessions of their own, so that Ctrl-C reaches only us.

    An id is the process's name, as `owner.process_name` gives it. Those that it is asked about are
    its store's too, started by a supervisor that was killed: they keep their GPUs.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        """Keep workers' output under `logs`; `environment` is added to ours."""
        self.name = f"local@{socket.gethostname()}"
        self._logs = logs
        self._environment = dict(environment or {})
        self._children: list[subprocess.Popen[bytes]] = []
        self._known: set[str] = set()  # workers that run, or ran when they were last asked about

    def start(self, count: int, command: list[str], gpus: int, cpus: int) -> list[str]:
        """Start `count` workers; each sees the GPU that the fewest see, where gpus is 1."""
        crowd = self._workers_by_device() if gpus else {}
        self._logs.mkdir(parents=True, exist_ok=True)
        ids = []
        for _ in range(count):
            environment = os.environ | self._environment
            environment |= dict.fromkeys(_THREAD_VARIABLES, str(cpus))
            if gpus:
                device = min(crowd, key=crowd.__getitem__)  # the first of several
                crowd[device] += 1
                environment["CUDA_VISIBLE_DEVICES"] = device
            ids.append(self._start_one(command, environment))
        self._known |= set(ids)
        return ids

    def _workers_by_device(self) -> dict[str, int]:
        """Return how many of the workers that run see each of the visible GPUs."""
        seen = Counter(_device_of(worker) for worker in self.alive(self._known))
        return {device: seen[device] for device in visible_gpus()}

    def _start_one(self, command: list[str], environment: Mapping[str, str]) -> str:
        # An interrupt in between would leave a worker that nobody knows.
        with (self._logs / "workers.log").open("ab") as log, held_back():
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self._children.append(process)
        return process_name(process.pid)

    def known(self) -> set[str]:
        """Return nothing: processes are known by the ids that were noted."""
        return set()

    def alive(self, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that run on this machine."""
        for child in self._children:
            child.poll()  # collect the ended ones, which would look alive otherwise
        living = {worker for worker in ids if pid_of(worker) is not None}
        self._known = (self._known - set(ids)) | living
        return living

    def stop(self, ids: Collection[str], *, at_once: bool = False) -> None:
        """Ask the workers to end, and end those that have not after a while, or at once.

        What was started and never told of, since an interrupt came between, is ended too.
        """
        ids = {*ids, *(process_name(child.pid) for child in self._children)}
        if not at_once:
            self._signal(ids, signal.SIGTERM)
            self._wait(ids)
        self._signal(ids, signal.SIGKILL)
        self._wait(ids)

    def _signal(self, ids: Collection[str], number: int) -> None:
        for worker in self.alive(ids):
            if (pid := pid_of(worker)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _wait(self, ids: Collection[str]) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while self.alive(ids) and time.monotonic() < deadline:
            time.sleep(0.05)


def _device_of(worker: str) -> str | None:
    """Return the GPU that a worker of ours was started on; None where it runs no more."""
    try:
        environment = Path(f"/proc/{pid_of(worker)}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = (each.partition(b"=") for each in environment)
    return next((v.decode() for name, _, v in found if name == b"CUDA_VISIBLE_DEVICES"), None)
