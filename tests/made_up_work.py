"""Workers and runs whose trials only pretend to train: real processes, no torch, no waiting.

    python -m made_up_work STORE [--claim-timeout S]        be a worker
    python -m made_up_work run STORE [ENGINE]               be a supervisor with such workers

What a trial does is in the environment variable MADE_UP, as JSON: see `Course`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from made_up import answers_worth, make_result, make_trained

from gatera import cli
from gatera.errors import InputError
from gatera.studies.launch import Slots
from gatera.studies.launch.local import LocalLauncher
from gatera.studies.launch.slurm import SlurmLauncher
from gatera.studies.store.owner import worker_name
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import file_sha256
from gatera.studies.workers.worker import work
from gatera.training.attempt_files import CHECKPOINT_FOLDER, checkpoint_name, checkpointed_steps
from gatera.training.metrics_log import MetricsLog, PrunedError
from gatera.training.provenance.code import read_sources
from gatera.trial import Trained, Trial, TrialResult

if TYPE_CHECKING:
    from gatera.studies.running.supervisor import Outcome


@dataclass(frozen=True)
class Course:
    """What a made-up trial does."""

    steps: int = 4
    pause: float = 0.0  # seconds a step
    checkpoint_every: int = 2
    hanging_attempt: int | None = None  # which attempt stands still
    hangs_after: int = 1  # step
    until: str = ""  # it goes on when this file exists; "": never
    saves_when_asked: str = ""  # where a trial notes that SIGTERM let it save
    refused_variant: str | None = None  # whose trials cannot use what the user gave
    broken_variant: str | None = None  # whose trials fail while `repaired` does not exist
    repaired: str = ""
    full_while: str = ""  # the disk counts as full while this file exists
    fits: int = 0  # items of a step at once; more run out of memory; 0: any number fits
    ignores_sigterm: bool = False
    on_a_device: bool = False  # that the process which loaded this module alone can use, as CUDA


_LOADED_IN = os.getpid()
read_sources()  # where the module is preloaded, for all trials


def train(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    resume_from: Sequence[Path],
    attempt: int,
    stop_file: Path,
) -> Trained:
    """Write metrics, checkpoints and an adapter, as a real trial does."""
    course = _course()
    at_once = trial.config["train"]["batch_size"] // trial.config["train"]["accumulation"]
    if course.fits and at_once > course.fits:
        raise MemoryError(f"no room for {at_once} items")
    log = MetricsLog(attempt_dir / "metrics.jsonl", course.steps)
    begun = max((checkpointed_steps(folder) for folder in resume_from), default=0)
    merit = merit_of(trial) if trial.is_tuning else 0.0
    for step in range(begun + 1, course.steps + 1):
        log.write("train", step, {"train/loss": 1 / step})
        if trial.is_tuning:
            log.write("validate", step, {"val/accuracy": merit * step / course.steps})
        if trial.variant == course.refused_variant:
            raise InputError("give something else.")
        if trial.variant == course.broken_variant and not Path(course.repaired).exists():
            raise RuntimeError("a planted bug")
        if course.full_while and Path(course.full_while).exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(attempt_dir))
        if stop_file.exists():
            raise PrunedError(f"pruned after step {step}")
        if step % course.checkpoint_every == 0:
            folder = attempt_dir / CHECKPOINT_FOLDER
            folder.mkdir(exist_ok=True)
            (folder / checkpoint_name(step, "f" * 64)).touch()
        while attempt == course.hanging_attempt and step == course.hangs_after:
            time.sleep(0.05)
            if course.until and Path(course.until).exists():
                break
        time.sleep(course.pause)
    made = make_trained(trial, attempt, attempt_dir)
    if trial.is_tuning:
        metrics = {"val/accuracy": merit, "val/loss": 1 - merit}
        made = dataclasses.replace(made, metrics=metrics)
    return made


def score(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    trained: Trained | None,
    adapter: Path | None,
    answered: Sequence[Path],
    attempt: int,
) -> TrialResult:
    """Write predictions, as a real trial does."""
    course = _course()
    if trained is None:  # the frozen backbone takes its time too
        log = MetricsLog(attempt_dir / "metrics.jsonl", course.steps)
        for step in range(1, course.steps + 1):
            log.write("test", 0, {"answered": step, "items": course.steps})
            time.sleep(course.pause)
    worth = (2 + int(trial.key[0], 16) % 4) / 8
    path = attempt_dir / "predictions.parquet"
    write_predictions(path, trial, worth)
    result = make_result(trial, worth, attempt=attempt)
    if trial.is_tuning:
        assert trained is not None
        result = dataclasses.replace(result, metrics=trained.metrics, gates={})
    return dataclasses.replace(result, predictions_sha256=file_sha256(path))


def _course() -> Course:
    course = Course(**json.loads(os.environ.get("MADE_UP", "{}")))
    if course.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if course.saves_when_asked:
        signal.signal(signal.SIGTERM, lambda *_: _save_and_end(Path(course.saves_when_asked)))
    if course.on_a_device and os.getpid() != _LOADED_IN:
        raise RuntimeError("cannot start the device again in a fork")
    return course


def _save_and_end(note: Path) -> None:
    """Take the time that a checkpoint takes, then end as a real trial does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1.0)
    note.touch()
    raise SystemExit(143)


def write_predictions(path: Path, trial: Trial, score: float) -> None:
    """Write predictions that are worth `score` in every task."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"task": task, "index": index, "correct": bool(right)}
        for task in trial.config["data"]["tasks"]
        for index, right in enumerate(answers_worth(score))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def merit_of(trial: Trial) -> float:
    """Return the accuracy that a trial's learning rate is worth: most at 0.01."""
    return round(0.875 - 0.25 * abs(math.log10(trial.config["train"]["learning_rate"]) + 2), 6)


def start_worker(store: Store, *, claim_timeout: float = 60.0, **course) -> subprocess.Popen[str]:
    """Start a worker in a process group of its own."""
    command = [sys.executable, "-m", "made_up_work", str(store.folder)]
    return _start([*command, "--claim-timeout", str(claim_timeout)], course)


def start_run(store: Store, engine: str = "local", **course) -> subprocess.Popen[str]:
    """Start a supervisor on the store's one plan, in a process group of its own."""
    return _start([sys.executable, "-m", "made_up_work", "run", str(store.folder), engine], course)


def _start(command: list[str], course: dict[str, object]) -> subprocess.Popen[str]:
    environment = os.environ | {"MADE_UP": json.dumps(course)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and would hand that down to this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


class MadeUpLauncher(LocalLauncher):
    """Starts such workers where the supervisor asks for real ones."""

    def start(self, count: int, command: list[str], gpus: int, cpus: int) -> list[str]:
        """Start `count` workers with the options of `command`."""
        return super().start(count, made_up_command(command), gpus, cpus)


class MadeUpSlurmLauncher(SlurmLauncher):
    """The same, as jobs."""

    def start(self, count: int, command: list[str], gpus: int, cpus: int) -> list[str]:
        """Submit `count` workers with the options of `command`."""
        return super().start(count, made_up_command(command), gpus, cpus)


def made_up_command(command: list[str]) -> list[str]:
    """Return the command of such a worker with the options of a real one."""
    return [sys.executable, "-m", "made_up_work", *command[command.index("work") + 1 :]]


def run_here(store: Store, plan_id: str, engine: str, reports: Path, **options) -> Outcome:
    """Run a stored plan with two such workers."""
    from gatera.studies.running.supervisor import RunOptions, run  # loads more than a worker needs

    logs = store.folder / "logs"
    if engine == "slurm":
        launcher: LocalLauncher | SlurmLauncher = MadeUpSlurmLauncher(logs, {"time": "10"})
    else:
        launcher = MadeUpLauncher(logs)
    return run(
        store,
        store.plan(plan_id),
        RunOptions(claim_timeout=60.0, report_dir=reports, **options),
        launcher=launcher,
        slots=Slots(2),
        show=lambda snapshot: None,
    )


def _main(arguments: list[str]) -> int:
    if arguments[0] == "run":
        store = Store(Path(arguments[1]))
        reports = store.folder.parent / "reports"
        # Without times: interrupted trials take longer, and say so. However often they are killed.
        options = {"measured": False, "max_attempts": 1000}
        outcome = run_here(store, store.plan_ids()[0], arguments[2], reports, **options)
        print(json.dumps(outcome.snapshot.counts))
        return 0
    valued = [each for each in arguments[1:] if each != "--allow-mixed"]
    options = dict(zip(valued[::2], valued[1::2], strict=True))
    limit = options.get("--max-attempts")
    work(
        Path(arguments[0]),
        plan_ids=(),
        worker=worker_name(),
        max_attempts=int(limit) if limit else None,
        claim_timeout=float(options["--claim-timeout"]),
        allow_mixed="--allow-mixed" in arguments,
        keep=options.get("--keep", "all"),
        runs="made_up_work",
        preload=("made_up_work", "pyarrow.parquet"),
    )
    return 0


if __name__ == "__main__":
    # Imported by its own name, under which trials' processes find `fit`.
    import made_up_work

    sys.exit(cli.carry_out(lambda: made_up_work._main(sys.argv[1:])))
