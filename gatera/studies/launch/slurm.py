"""Workers as SLURM jobs, submitted through submitit; the store lies on a shared file system."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gatera.errors import InputError

_HOURS = 4.0  # time limit of a job where none is given; it is requeued when it ends
_REQUEUES = 10_000  # times that a job may be requeued at its time limit
_ASK_SECONDS = 3.0  # between two questions to SLURM's controller
_NUMBERS = ("nodes", "cpus_per_task", "gpus_per_node", "gpus_per_task", "signal_delay_s")


def parse_options(text: str) -> dict[str, str]:
    """Read `key=value,...`; what follows a comma without a key belongs to the value before it.

    Raises:
        InputError: the text does not begin with `key=`.
    """
    options: dict[str, str] = {}
    last = None
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if equals:
            last = key.strip().lstrip("-").replace("-", "_")
            options[last] = value.strip()
        elif last is not None:
            options[last] += f",{part}"
        else:
            raise InputError(
                f"--slurm {text!r} is not key=value,...; give for example "
                "--slurm partition=gpu,time=4:00:00."
            )
    return options


def minutes(text: str) -> int:
    """Return a SLURM time limit (minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S) in whole minutes.

    Raises:
        InputError: it is none of these.
    """
    days, dash, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        if dash:
            hours, mins, seconds = [*parts, *[0] * (3 - len(parts))]
            hours += 24 * int(days)
        elif len(parts) == 1:
            hours, mins, seconds = 0, parts[0], 0
        else:
            hours, mins, seconds = [*[0] * (3 - len(parts)), *parts]
    except ValueError:
        raise InputError(
            f"time={text} is not a time limit as SLURM writes it; give minutes, H:M:S or D-H:M:S."
        ) from None
    return max(1, hours * 60 + mins + -(-seconds // 60))


class SlurmLauncher:
    """Starts workers as jobs of one array; an id is `<job>_<task>`, that of one job `<job>`.

    Truth is the store and the list of jobs: nothing waits for a job's own result, which a killed
    job never delivers.
    """

    def __init__(
        self, logs: Path, options: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Keep jobs' files under `logs`; `options` are sbatch's, `environment` is added to ours.

        Raises:
            InputError: submitit is not installed, or SLURM is not there.
        """
        if importlib.util.find_spec("submitit") is None:
            raise InputError("--launcher slurm needs submitit: pip install 'gatera[slurm]'.")
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise InputError(
                "--launcher slurm finds no sbatch and squeue here; start it on a machine of the "
                "cluster, or use --launcher local."
            )
        self.name = "slurm"
        self._logs, self._options = logs, dict(options)
        # Jobs of one store share a name that no other store's have.
        self._job_name = f"gatera-{hashlib.sha256(str(logs).encode()).hexdigest()[:8]}"
        self._environment = dict(environment or {})
        self._asked_at = -_ASK_SECONDS
        self._jobs: set[str] = set()

    def start(self, count: int, command: list[str], gpus: int, cpus: int) -> list[str]:
        """Submit `count` jobs as an array; --slurm says what each gets, cpus where it does not.

        Raises:
            InputError: SLURM refuses them.
        """
        import submitit

        self._logs.mkdir(parents=True, exist_ok=True)
        executor = submitit.SlurmExecutor(folder=self._logs / "slurm", max_num_timeout=_REQUEUES)
        executor.update_parameters(**self._parameters(cpus))
        work = WorkerJob(command, {**self._environment, "OMP_NUM_THREADS": str(cpus)})
        try:
            with executor.batch():
                jobs = [executor.submit(work) for _ in range(count)]
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"SLURM refuses the workers: {' '.join(str(error).split())}") from None
        ids = [str(job.job_id) for job in jobs]
        self._jobs |= set(ids)
        return ids

    def _parameters(self, cpus: int) -> dict[str, Any]:
        """Return submitit's parameters; what it does not know goes to sbatch as it is."""
        given: dict[str, Any] = {"time": f"{_HOURS:.0f}:00:00", "cpus_per_task": cpus}
        given |= self._options
        given["time"] = minutes(str(given["time"]))
        given |= {name: int(given[name]) for name in _NUMBERS if name in given}
        known = ("time", "partition", "account", "qos", "constraint", "gres", "nodelist", "exclude")
        parameters = {n: v for n, v in given.items() if n in known or n in _NUMBERS}
        other = {n.replace("_", "-"): v or True for n, v in given.items() if n not in parameters}
        return {"job_name": self._job_name, "additional_parameters": other, **parameters}

    def known(self) -> set[str]:
        """Return the store's jobs in SLURM's queue, by their name.

        A supervisor that was killed while it submitted them has noted them nowhere.
        """
        return _queue(f"--name={self._job_name}") or set()

    def alive(self, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that run or wait in SLURM's queue."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_SECONDS:
            found = _queue()
            self._asked_at = now
            if found is not None:  # else nothing is known anew
                self._jobs = found
        return set(ids) & self._jobs

    def stop(self, ids: Collection[str], *, at_once: bool = False) -> None:
        """Cancel the jobs and return when they are gone, after a while, or at once.

        By their name: one that was submitted and never told of, since an interrupt came between,
        is cancelled too.
        """
        command = ["scancel", "--me", f"--name={self._job_name}"]
        subprocess.run(command, capture_output=True, check=False)
        deadline = time.monotonic() + (0 if at_once else 60)
        while self.alive(ids) and time.monotonic() < deadline:
            time.sleep(0.5)


def _queue(*options: str) -> set[str] | None:
    """Return the user's jobs that run or wait; None where the controller is away."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i", *options]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(asked.stdout.split()) if asked.returncode == 0 else None


class WorkerJob:
    """What a job runs: one worker, as a process with a name that is the job's."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the worker to its end; return its exit status."""
        import submitit

        name = submitit.JobEnvironment().job_id
        # SLURM announces the time limit to every process of the job; it is for submitit alone,
        # which calls `checkpoint`. A process hands down that it ignores a signal.
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen(
                self._command, env=os.environ | self._environment | {"GATERA_WORKER": name}
            )
        finally:
            signal.signal(signal.SIGUSR2, handler)
        return self._process.wait()

    def checkpoint(self) -> Any:
        """Let the worker save a checkpoint and end; the job is then queued again."""
        import submitit

        if self._process is not None:
            # This interrupts `__call__` in its wait, which holds the lock of Popen's own methods.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(WorkerJob(self._command, self._environment))
