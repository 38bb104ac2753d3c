"""A kill storm: SIGKILL at random moments to workers, trials and the supervisor of a real study.

    python benchmarks/kill_storm.py [--kills 100] [--report reports/benchmarks/kill_storm.md]

Runs a study twice, once left alone and once in the storm, and compares all that came of it byte by
byte: results (without `measured` and the number of the attempt), predictions, and the report.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from machine import busy, describe_machine
from processes import Running, running, send
from views import differences_to_rebuilt

from gatera.studies.store.store import Store

VICTIMS = ("worker", "trial", "supervisor")

# Returns what runs a study, given a folder: its store is to be <folder>/store, its report in
# <folder>/reports and without what a clock says.
Command = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Storm:
    """What is run, and how it is disturbed."""

    command: Command
    kills: int
    in_training: int  # kills of a worker or a trial that wait until the trial is in training
    mean_gap: float  # seconds between two kills; they are uniform between 0 and twice that
    seed: int = 0


@dataclass
class Record:
    """What a storm did."""

    victims: Counter[str] = field(default_factory=Counter)
    in_training: int = 0  # kills that ended a trial between its first and its last step
    seconds: float = 0.0
    starts: int = 0  # of the supervisor


def run_alone(command: Command, folder: Path) -> float:
    """Run the study undisturbed in `folder`; return the seconds it took."""
    began = time.monotonic()
    process = _start(command, folder)
    if process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed; see {folder / 'run.log'}")
    return time.monotonic() - began


def run_in_storm(storm: Storm, folder: Path) -> Record:
    """Run the study in `folder` while killing; start the supervisor again whenever it died.

    Raises:
        SystemExit: the study ended before the storm did, or failed.
    """
    chance, record, began = random.Random(storm.seed), Record(), time.monotonic()
    supervisor = _start(storm.command, folder)
    record.starts = 1
    left = storm.kills
    waiting = storm.in_training
    while left:
        time.sleep(chance.uniform(0, 2 * storm.mean_gap))
        victim = chance.choice(VICTIMS)
        wait = victim != "supervisor" and waiting > 0
        killed = False
        while not killed:
            if supervisor.poll() is not None:
                if supervisor.returncode != -signal.SIGKILL:
                    raise SystemExit(
                        f"the supervisor ended ({supervisor.returncode}) with {left} kills left; "
                        f"see {folder / 'run.log'}"
                    )
                supervisor = _start(storm.command, folder)
                record.starts += 1
            if victim == "supervisor":
                supervisor.kill()
                supervisor.wait()
                killed = True
            else:
                killed = _kill_one(folder / "store", victim, wait, chance, record)
            if not killed:
                time.sleep(0.05)
        waiting -= wait
        left -= 1
        record.victims[victim] += 1
    if supervisor.poll() is not None:
        supervisor = _start(storm.command, folder)
        record.starts += 1
    if supervisor.wait() != 0:
        raise SystemExit(f"the run after the storm failed; see {folder / 'run.log'}")
    record.seconds = time.monotonic() - began
    return record


def _start(command: Command, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.log").open("ab") as log:
        return subprocess.Popen(
            command(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _kill_one(
    store: Path, victim: str, only_in_training: bool, chance: random.Random, record: Record
) -> bool:
    """Kill a worker or a trial; return whether there was one to be killed."""
    candidates = [each for each in running(store) if victim == "worker" or each.trial is not None]
    if only_in_training:
        candidates = [each for each in candidates if _in_training(store, each)]
    if not candidates:
        return False
    chosen = chance.choice(candidates)
    trains = _in_training(store, chosen)
    pid = chosen.worker if victim == "worker" else chosen.trial
    killed = pid is not None and send(pid, signal.SIGKILL)
    record.in_training += killed and trains
    return killed


def _in_training(store: Path, chosen: Running) -> bool:
    """Return whether the newest line of the worker's trial is of a step before the last."""
    if chosen.trial is None:
        return False
    for claim in store.glob("trials/*/claim.*"):
        if claim.suffix == ".dead" or (claim.parent / "result.json").exists():
            continue
        attempt = claim.name.rpartition(".")[2]
        try:
            owner = json.loads(claim.read_text())
            lines = (claim.parent / "attempts" / attempt / "metrics.jsonl").read_text()
            line = json.loads(lines[: lines.rindex("\n")].rpartition("\n")[2])
        except (OSError, ValueError):
            continue
        if owner["pid"] == chosen.worker and line["phase"] != "test":
            return bool(line["step"] < line["max_steps"])
    return False


# Comparing


def differences(alone: Path, storm: Path) -> list[str]:
    """Return what differs between the two runs; nothing must."""
    found = []
    stores = [Store(folder / "store") for folder in (alone, storm)]
    names = [{path.name for path in (s.folder / "trials").iterdir()} for s in stores]
    found += [f"trial {key} is in one store only" for key in names[0] ^ names[1]]
    for key in sorted(names[0] & names[1]):
        results = [s.result(key) for s in stores]
        if None in results:
            found.append(f"trial {key} has no result")
            continue
        fields = [result.to_json() for result in results if result is not None]
        for each in fields:
            del each["measured"], each["attempt"]
        if json.dumps(fields[0]) != json.dumps(fields[1]):
            found.append(f"the results of {key} differ")
        paths = [
            s.predictions_path(key, result.attempt)
            for s, result in zip(stores, results, strict=True)
            if result is not None
        ]
        if paths[0].read_bytes() != paths[1].read_bytes():
            found.append(f"the predictions of {key} differ")
    reports = [
        {p.relative_to(folder / "reports"): p.read_bytes() for p in _files(folder / "reports")}
        for folder in (alone, storm)
    ]
    if reports[0] != reports[1]:
        found.append("the reports differ")
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def steps_redone(store: Path) -> list[int]:
    """Return, for each attempt that was cut short in training, the steps that were done again."""
    redone = []
    for trial in (store / "trials").iterdir():
        courses = []
        for attempt in sorted((trial / "attempts").iterdir(), key=lambda path: int(path.name)):
            path = attempt / "metrics.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            steps = [line["step"] for line in map(_object, lines) if line.get("phase") == "train"]
            if steps:
                courses.append((steps[0], steps[-1]))
        redone += [
            max(0, last - first + 1) for (_, last), (first, _) in itertools.pairwise(courses)
        ]
    return redone


def _object(line: str) -> dict[str, object]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


def run_counts(store: Path) -> tuple[int, int, int]:
    """Return the numbers of results, of MLflow's child runs and of Optuna's trials."""
    import optuna
    from mlflow.tracking import MlflowClient
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    children = [r for r in runs if "gatera.key" in r.data.tags and r.info.status == "FINISHED"]
    storage = JournalStorage(JournalFileBackend(str(store / "optuna.journal")))
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    told = [trial for trial in trials if trial.value is not None]
    results = len(list(store.glob("trials/*/result.json")))
    assert len({run.data.tags["gatera.key"] for run in children}) == len(children)
    assert len({trial.user_attrs["key"] for trial in told}) == len(told) == len(trials)
    return results, len(children), len(told)


# The benchmark

STEPS, EVERY = 400, 10
STUDY = (
    *("ablation_table5", "--seeds", "4", "--variants", "hira,static_gate,gatera"),
    *("--set", f"train.max_steps={STEPS}", "--set", f"train.checkpoint_every={EVERY}"),
    *("--set", "train.validation_every=40", "--set", "eval.limit=50"),
    *("--workers", "2", "--max-attempts", "1000"),
)


def run_command(folder: Path) -> list[str]:
    """Return the command that runs the benchmark's study."""
    command = [sys.executable, "-m", "gatera.studies", "run", *STUDY, "--no-measured"]
    return [*command, "--store", str(folder / "store"), "--report-dir", str(folder / "reports")]


def _trial_seconds(store: Path) -> list[float]:
    """Return how long each trained trial took, ascending."""
    trained = [path.parent for path in store.glob("trials/*/result.json") if _trains(path)]
    attempts = [
        [json.loads(p.read_text()) for p in t.glob("attempts/*/ended.json")] for t in trained
    ]
    return sorted(sum(record["seconds"] for record in found) for found in attempts)


def _trains(result: Path) -> bool:
    return bool(json.loads(result.read_text())["config"]["adapter"]["method"] != "frozen")


def main() -> int:
    """Run the benchmark and write its report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean-gap", type=float, default=4.5, help="seconds between kills")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/kill_storm.md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        load = busy()
        seconds = run_alone(run_command, folder / "alone")
        # Half of the kills wait for training, so that at least 40 of 100 surely hit it.
        storm = Storm(
            run_command, options.kills, options.kills // 2, options.mean_gap, options.seed
        )
        record = run_in_storm(storm, folder / "storm")
        text, ok = _report(folder, storm, record, seconds, load)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text, encoding="utf-8")
    print(text)
    return 0 if ok else 1


def _report(
    folder: Path, storm: Storm, record: Record, alone_seconds: float, load: str
) -> tuple[str, bool]:
    stores = [folder / name / "store" for name in ("alone", "storm")]
    found = differences(folder / "alone", folder / "storm")
    views = differences_to_rebuilt(stores[1], folder)
    planned = len(list((stores[0] / "trials").iterdir()))
    results, children, told = run_counts(stores[1])
    redone = steps_redone(stores[1])
    attempts = len(list(stores[1].glob("trials/*/attempts/*")))
    trained = _trial_seconds(stores[0])
    longest = max(redone, default=0)
    held = {
        "results, predictions and report equal the undisturbed run's, byte by byte": not found,
        "every trial has one result, one MLflow run and one Optuna trial": (
            results == children == told == planned
        ),
        "both views equal those that `sync` makes anew of the store": not views,
        f"at most one checkpoint interval ({EVERY} steps) redone for each kill": longest <= EVERY,
        "at least 40 % of the kills hit a trial in training": (
            record.in_training >= 0.4 * storm.kills
        ),
        "trials take at least 20 s": trained[0] >= 20,
    }
    victims = ", ".join(f"{record.victims[name]} {name}s" for name in VICTIMS)
    rows = [
        ("trials", f"{len(trained)} of {STEPS} steps, and the frozen backbone"),
        ("seconds a trial, undisturbed", f"{trained[0]:.0f} to {trained[-1]:.0f}"),
        ("SIGKILLs", f"{storm.kills} ({victims}), seed {storm.seed}"),
        ("of these in training", str(record.in_training)),
        ("attempts", f"{attempts} for {planned} trials"),
        ("supervisor started", f"{record.starts} times"),
        ("steps redone", f"{sum(redone)} in all, at most {longest} after a kill"),
        ("wall time, undisturbed", f"{alone_seconds:.0f} s"),
        ("wall time, storm", f"{record.seconds:.0f} s"),
        ("results / MLflow child runs / Optuna trials", f"{results} / {children} / {told}"),
    ]
    lines = [
        "# Kill storm",
        "",
        "A study of real trainings at the embedded scale, two workers, in which SIGKILL hits a "
        "worker, a trial's process or the supervisor at random moments; the supervisor is started "
        "again by hand, everything else comes back by itself. Compared with the same study left "
        "alone: results without `measured` and the number of the attempt, predictions, and the "
        "report without what a clock says. Half of the kills wait until their victim is training.",
        "",
        "| what must hold | holds |",
        "| --- | --- |",
        *(f"| {what} | {'yes' if holds else '**no**'} |" for what, holds in held.items()),
        "",
        "| measured | |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        *(f"- {each}" for each in (*found, *views)),
        f"Measured on {describe_machine()}; {load} at the start. "
        "Made by `python benchmarks/kill_storm.py`.",
        "",
    ]
    return "\n".join(lines), all(held.values())


if __name__ == "__main__":
    sys.exit(main())
