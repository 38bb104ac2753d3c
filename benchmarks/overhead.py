"""What a trial costs beside its work: many trials that do nothing, through real workers.

    python benchmarks/overhead.py [--stores 10] [--trials 200] [--workers 8]
    python benchmarks/overhead.py --seeds 500 [--rows 10] [--workers 4]

Each writes its part of reports/benchmarks/overhead.md. The first: fresh stores; counts what a
locked database, a lost or a doubled trial would show. The second: one large study, whose figures it
prints too, as one JSON object; `--beside FILE` puts those of another commit beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import busy, describe_machine

from gatera.studies import Study, Variant
from gatera.studies.catalog import LoadedStudy
from gatera.studies.launch import Slots
from gatera.studies.launch.local import LocalLauncher
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan
from gatera.studies.store.owner import worker_name
from gatera.studies.store.snapshot import Snapshot
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import file_sha256
from gatera.studies.views.mlflow_database import keys_in
from gatera.studies.workers.worker import work
from gatera.training.attempt_files import ADAPTER_FOLDER
from gatera.training.provenance.code import scoring_code, training_code
from gatera.training.provenance.machine import Machine
from gatera.trial import Trained, Trial, TrialResult

if TYPE_CHECKING:
    from gatera.studies.running.supervisor import Outcome

STACK = "gatera.training.fitting"  # what a real worker has loaded when it takes a trial


def train(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    resume_from: Sequence[Path],
    attempt: int,
    stop_file: Path | None,
) -> Trained:
    """Train nothing: write what stands for an adapter."""
    (attempt_dir / ADAPTER_FOLDER).mkdir()
    weights = attempt_dir / ADAPTER_FOLDER / "adapter_model.safetensors"
    weights.write_bytes(b"")
    return Trained(
        training_key=trial.training_key,
        key=trial.key,
        attempt=attempt,
        adapter_sha256={weights.name: file_sha256(weights)},
        metrics={},
        parameters={"trainable": 1, "all": 2},
        provenance=_provenance(trial, training_code(trial.config)),
    )


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
    """Score nothing: write predictions, and a result in which every task has the same score."""
    import pyarrow
    import pyarrow.parquet

    tasks = trial.config["data"]["tasks"]
    path = attempt_dir / "predictions.parquet"
    columns = {"task": 2 * tasks, "index": [0] * len(tasks) + [1] * len(tasks)}
    columns["correct"] = [True] * len(tasks) + [False] * len(tasks)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    accuracies = {f"test/accuracy/{task}": 0.5 for task in tasks}
    accuracies |= {f"test/no_keyword/{task}": 0.0 for task in tasks}
    return TrialResult(
        key=trial.key,
        training_key=trial.training_key,
        seed=trial.seed,
        attempt=attempt,
        config=trial.config,
        metrics={**accuracies, "test/accuracy": 0.5},
        gates={},
        parameters={"trainable": 1, "all": 2},
        predictions_sha256=file_sha256(path),
        provenance={
            "training": None if trained is None else trained.provenance,
            "scoring": _provenance(trial, scoring_code(trial.config)),
        },
        measured={"train_seconds": 0.0, "eval_seconds": 0.0, "peak_memory_bytes": 0},
    )


def _provenance(trial: Trial, code: Mapping[str, str]) -> dict[str, Any]:
    here = dataclasses.asdict(Machine.here())
    nothing = {"commit": None, "dirty": None, "threads": 1, "steps": 0}
    return {**here, **nothing, "code": code, "identities": trial.identities}


class NothingLauncher(LocalLauncher):
    """Starts workers whose trials do nothing where the supervisor asks for real ones."""

    def __init__(self, logs: Path, preload: str) -> None:
        """Let trials' processes find the module `preload` loaded."""
        super().__init__(logs)
        self._preload = preload

    def start(self, count: int, command: list[str], gpus: int, cpus: int) -> list[str]:
        """Start `count` workers on the store that `command` names."""
        store = command[command.index("work") + 1]
        ours = [sys.executable, str(Path(__file__).absolute()), "--work", store]
        ours += ["--preload", self._preload]
        return super().start(count, ours, gpus, cpus)


def plan_of(seeds: int, rows: int = 1) -> Plan:
    """Return a plan of `rows` times `seeds` trials, and the frozen backbone's one."""
    others = tuple(Variant(f"rank_{8 + n}", {"adapter.r": 8 + n}) for n in range(rows - 1))
    study = Study((*others, Variant("nothing")), reference="nothing", seeds=tuple(range(seeds)))
    return make_plan(LoadedStudy("nothing", study, Path("nothing.py"), "0" * 64), Request())


@dataclass(frozen=True)
class Measured:
    """What one fresh store showed."""

    trials: int
    results: int
    attempts: int
    child_runs: int
    told: int  # Optuna trials with a value
    warnings: int
    errors: int  # lines in the workers' log
    start_seconds: float  # from the run's begin to the first result
    seconds_a_trial: float  # wall time between the first and the last result, by trials
    busy_a_trial: float  # of a worker: from a trial's claim to the next one's, mean


def measure(trials: int, workers: int, folder: Path, preload: str = STACK) -> Measured:
    """Run `trials` trials that do nothing in a fresh store."""
    store, plan = Store(folder / "store", create=True), plan_of(trials - 1)
    logs = store.folder / "logs"
    began = time.time()
    outcome = _run(store, plan, workers, folder, preload)
    written = sorted(path.stat().st_mtime for path in store.folder.glob("trials/*/result.json"))
    child_runs, told = projected(store)
    log = logs / "workers.log"
    return Measured(
        trials=trials,
        results=outcome.snapshot.counts["done"],
        attempts=sum(len(store.claims.attempts(trial.key)) for trial in plan.trials),
        child_runs=child_runs,
        told=told,
        warnings=len(outcome.warnings),
        errors=len(log.read_text().splitlines()) if log.exists() else 0,
        start_seconds=written[0] - began,
        seconds_a_trial=(written[-1] - written[0]) / (trials - 1),
        busy_a_trial=_gap(store, plan),
    )


def _gap(store: Store, plan: Plan) -> float:
    """Return the mean time between two claims of one worker, after its first trial."""
    claims: dict[str, list[float]] = {}
    for trial in plan.trials:
        owner = store.claims.owner(trial.key, 1)
        claims.setdefault(owner["worker"], []).append(owner["claimed_at"])
    courses = [sorted(times)[1:] for times in claims.values()]  # the first waits for the stack
    gaps = [later - earlier for times in courses for earlier, later in itertools.pairwise(times)]
    return statistics.fmean(gaps) if gaps else 0.0


def projected(store: Store) -> tuple[int, int]:
    """Return the numbers of MLflow's finished child runs and of Optuna's told trials."""
    import optuna
    from mlflow.tracking import MlflowClient
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    client = MlflowClient(tracking_uri=f"sqlite:///{store.folder / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    children = [r for r in runs if "gatera.key" in r.data.tags and r.info.status == "FINISHED"]
    storage = JournalStorage(JournalFileBackend(str(store.folder / "optuna.journal")))
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    return len(children), sum(trial.value is not None for trial in trials)


def measure_growth(rows: int, seeds: int, workers: int, folder: Path) -> dict[str, float]:
    """Run one large study of trials that do nothing, twice; return what it cost."""
    store, plan = Store(folder / "store", create=True), plan_of(seeds, rows)
    wrote, read = _seconds(lambda: store.write_plan(plan)), _seconds(lambda: store.plan(plan.id))
    tracked: list[int] = []  # MLflow's runs when the last trial had ended

    def show(snapshot: Snapshot) -> None:
        if not tracked and not snapshot.unfinished:
            tracked.append(len(keys_in(store.folder / "mlflow.db", plan.id)))

    began, cpu = time.time(), time.process_time()
    _run(store, plan, workers, folder, show=show)
    ended, cpu = time.time(), time.process_time() - cpu
    written = sorted(path.stat().st_mtime for path in store.folder.glob("trials/*/result.json"))
    part = min(1000, len(written) // 2)

    # What `status` does, in a process of its own; a study's name it would look for in vain.
    look = [sys.executable, "-c", _LOOK, str(store.folder), plan.id]
    after = ended - written[-1]
    return {
        "trials": len(plan.trials),
        "workers": workers,
        "results": len(written),
        "seconds_a_trial": (written[-1] - written[0]) / len(written),
        "seconds_of_the_first": (written[part - 1] - written[0]) / part,
        "seconds_of_the_last": (written[-1] - written[-part]) / part,
        "part": part,
        "supervisor_share_of_a_core": cpu / (ended - began),
        "supervisor_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "plan_mib": (store.folder / "plans" / f"{plan.id}.json").stat().st_size / 2**20,
        "plan_written_seconds": wrote,
        "plan_read_seconds": read,
        "repeated_run_seconds": _seconds(lambda: _run(Store(store.folder), plan, workers, folder)),
        "status_seconds": min(_seconds(lambda: subprocess.run(look, check=True)) for _ in range(3)),
        "runs_in_mlflow_at_the_last_result": sum(tracked),
        "seconds_after_the_last_result": after,
        "mlflow_runs_a_second_then": (len(plan.trials) - sum(tracked)) / after,
    }


_LOOK = """
import sys
from pathlib import Path
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.store.store import Store
store = Store(Path(sys.argv[1]), verifies=False)
take_snapshot(store, store.plan(sys.argv[2]))
"""

_GROWTH = (  # what is said of each figure, and in which form
    ("trials", "trials", "{:,.0f}"),
    ("workers", "workers", "{:.0f}"),
    ("seconds_a_trial", "seconds a trial, from the first result to the last", "{:.3f}"),
    ("part", "trials in its first part, and in its last", "{:,.0f}"),
    ("seconds_of_the_first", "seconds a trial, in the first part", "{:.3f}"),
    ("seconds_of_the_last", "seconds a trial, in the last part", "{:.3f}"),
    ("supervisor_share_of_a_core", "share of a core that the supervisor takes", "{:.2f}"),
    ("supervisor_peak_mib", "supervisor's memory at its peak, MiB", "{:,.0f}"),
    ("plan_mib", "plan file, MiB", "{:.1f}"),
    ("plan_written_seconds", "seconds to write the plan", "{:.2f}"),
    ("plan_read_seconds", "seconds to read it", "{:.2f}"),
    ("status_seconds", "seconds of `status` (the best of three)", "{:.2f}"),
    ("repeated_run_seconds", "seconds of `run` on the finished store", "{:.1f}"),
    ("runs_in_mlflow_at_the_last_result", "runs that MLflow has at the last result", "{:,.0f}"),
    ("mlflow_runs_a_second_then", "runs a second that it takes from then on", "{:.1f}"),
)


def _growth_report(after: Mapping[str, float], before: Mapping[str, Any] | None, load: str) -> str:
    columns = [after] if before is None else [before, after]
    heads = ["here"] if before is None else [f"before ({before['commit']})", "here"]
    rows = [
        (said, *(form.format(c[name]) if name in c else "—" for c in columns))
        for name, said, form in _GROWTH
    ]
    return "\n".join(
        [
            _LARGE,
            "",
            _growth_answer(after, before),
            "",
            "One study of trials that do nothing, with Optuna's and MLflow's views: what a trial "
            "costs must not grow with their number. MLflow's view follows at its own rate, in a "
            "thread that waits for the workers, and is complete when the run ends.",
            "",
            f"| measured | {' | '.join(heads)} |",
            f"| --- |{' ---: |' * len(heads)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            *([before["remark"], ""] if before is not None and "remark" in before else []),
            f"Measured on {describe_machine()}; {load} at the start. Made by `python "
            "benchmarks/overhead.py --seeds 500 --rows 10 --workers 4`.",
            "",
        ]
    )


def _growth_answer(after: Mapping[str, float], before: Mapping[str, Any] | None) -> str:
    """Return what the table says, in one sentence."""
    ratio = after["seconds_of_the_last"] / after["seconds_of_the_first"]
    answer = (
        f"**A trial costs {after['seconds_a_trial']:.2f} s among {after['trials']:,.0f}, the last "
        f"{after['part']:,.0f} of them {ratio:.2f} times what the first do"
    )
    if before is None:
        return f"{answer}.**"
    grown = before["seconds_of_the_last"] / before["seconds_of_the_first"]
    return (
        f"{answer}; before, {before['seconds_a_trial']:.2f} s among {before['trials']:,.0f}, the "
        f"last {before['part']:,.0f} of them {grown:.2f} times what the first did.**"
    )


_LARGE = "## One large study"


def _write_part(path: Path, text: str) -> None:
    """Write one part of the report, and leave the other as it is."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    first, heading, second = old.partition(_LARGE)
    is_large = text.startswith(_LARGE)
    parts = (first, text) if is_large else (text, heading + second)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(part.strip() + "\n" for part in parts if part), encoding="utf-8")


def _run(
    store: Store,
    plan: Plan,
    workers: int,
    folder: Path,
    preload: str = STACK,
    show: Callable[[Snapshot], None] = lambda snapshot: None,
) -> Outcome:
    from gatera.studies.running.supervisor import RunOptions, run

    return run(
        store,
        plan,
        RunOptions(claim_timeout=600.0, report_dir=folder / "reports"),
        launcher=NothingLauncher(store.folder / "logs", preload),
        slots=Slots(workers),
        show=show,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def holds(each: Measured) -> bool:
    """Return whether a store is complete, and nothing was done twice or went wrong."""
    counts = (each.results, each.attempts, each.child_runs, each.told)
    return counts == (each.trials,) * 4 and not each.warnings and not each.errors


def main() -> int:
    """Run the benchmark and write its report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stores", type=int, default=10)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seeds", type=int, help="one large study: seeds a row")
    parser.add_argument("--rows", type=int, default=10, help="and its rows")
    parser.add_argument("--beside", type=Path, help="such figures of another commit, as JSON")
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/overhead.md"))
    parser.add_argument("--work", type=Path, help="be a worker on this store")
    parser.add_argument("--preload", default=STACK, help="what its trials find loaded")
    options = parser.parse_args()
    if options.work is not None:
        _be_a_worker(options.work, options.preload)
        return 0
    load = busy()
    if options.seeds is not None:
        with tempfile.TemporaryDirectory() as folder:
            large = measure_growth(options.rows, options.seeds, options.workers, Path(folder))
        print(json.dumps(large, indent=1))
        before = json.loads(options.beside.read_text()) if options.beside else None
        _write_part(options.report, _growth_report(large, before, load))
        return 0
    found = []
    for _ in range(options.stores):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(options.trials, options.workers, Path(folder)))
            print(json.dumps(dataclasses.asdict(found[-1])), file=sys.stderr, flush=True)
    text = _report(found, options.workers, load)
    _write_part(options.report, text)
    print(text)
    return 0 if all(holds(each) and each.seconds_a_trial < 0.5 for each in found) else 1


def _be_a_worker(store: Path, preload: str) -> None:
    work(
        store,
        plan_ids=(),
        worker=worker_name(),
        max_attempts=None,
        claim_timeout=600.0,
        runs="overhead",
        preload=(preload, "overhead"),
    )


def _report(found: Sequence[Measured], workers: int, load: str) -> str:
    wall = [each.seconds_a_trial for each in found]
    busy_for = [each.busy_a_trial for each in found]
    start = [each.start_seconds for each in found]
    complete = sum(holds(each) for each in found)
    rows = [
        ("stores complete, nothing done twice, no error", f"{complete} of {len(found)}"),
        ("seconds a trial, wall time, median", f"{statistics.median(wall):.3f}"),
        ("the same, worst store", f"{max(wall):.3f}"),
        (f"seconds a trial, of each of {workers} workers, median", _median(busy_for)),
        ("seconds from the run to its first result, median", _median(start)),
    ]
    return "\n".join(
        [
            "# Overhead of a trial",
            "",
            f"{found[0].trials} trials that do nothing, {workers} workers with the training stack "
            f"loaded, {len(found)} fresh stores, each with the supervisor, Optuna's journal and "
            "MLflow's database. A store is complete when results, attempts, MLflow's child runs "
            "and Optuna's trials are as many as trials, and neither the supervisor nor a worker "
            "said a word. Time is measured after start-up, from the first result to the last.",
            "",
            "| measured | |",
            "| --- | ---: |",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            f"Measured on {describe_machine()}; {load} at the start. "
            "Made by `python benchmarks/overhead.py`.",
            "",
        ]
    )


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}"


if __name__ == "__main__":
    sys.exit(main())
