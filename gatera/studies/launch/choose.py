"""Which engine a run uses, and how many workers it gets, from the command line's options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.launch import Launcher, Slots
from gatera.studies.launch.local import LocalLauncher
from gatera.studies.launch.slurm import SlurmLauncher, parse_options
from gatera.training.provenance.gpus import visible_gpus


def local(
    logs: Path, data_root: Path | None, scale: str, workers: int | None, workers_per_gpu: int
) -> tuple[Launcher, Slots]:
    """Return workers on this machine: one a visible GPU, or a CPU core, where `workers` is None."""
    gpus = len(visible_gpus())
    count = workers or (gpus * workers_per_gpu) or cpu_count()
    slots = Slots(count, 1 if gpus else 0, _threads(scale, count, gpus))
    return LocalLauncher(logs, _environment(data_root)), slots


def slurm(
    logs: Path, data_root: Path | None, workers: int | None, options: str
) -> tuple[Launcher, Slots]:
    """Return workers as jobs of SLURM.

    Raises:
        InputError: `workers` is None, the options cannot be read, or SLURM is not there.
    """
    if workers is None:
        raise InputError("--launcher slurm needs --workers N: how many jobs may run at a time.")
    parsed = parse_options(options)
    threads = int(parsed.get("cpus_per_task", "1"))
    return SlurmLauncher(logs, parsed, _environment(data_root)), Slots(workers, threads=threads)


def _threads(scale: str, workers: int, gpus: int) -> int:
    """Return the threads of each worker, which all together have no more than there are cores."""
    return 1 if scale == "tiny" and not gpus else max(1, cpu_count() // workers)


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _environment(data_root: Path | None) -> Mapping[str, str]:
    environment = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if data_root is not None:
        environment["GATERA_DATA_ROOT"] = str(data_root.absolute())
    return environment
