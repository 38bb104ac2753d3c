"""MLflow's view of a study: one parent run a plan, one child run a trial.

A projection of the store, like the one for Optuna: nothing depends on it. Runs are found again by
their tags (`gatera.plan`, `gatera.key`), points by their step, so that a supervisor that was
killed goes on without writing anything twice.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
# A server that went away is asked again in the next round; MLflow alone would wait for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from gatera.studies.planning.plan import Plan
from gatera.studies.store.store import Store
from gatera.studies.views.mlflow_database import local_uri, prepare_database
from gatera.training.attempt_files import PREDICTIONS_FILE
from gatera.trial import Json, Trial, TrialResult

_BATCH = 900  # MLflow takes at most 1,000 metrics a call
_PARENT = "mlflow.parentRunId"
_VALIDATED = "val/accuracy"
_LIVE = ("train/loss", "train/entropy", _VALIDATED, "gate/mean", "learning_rate")
_MOST_POINTS = 500  # of a trial's course, of each metric


class Tracker:
    """Writes one plan's trials to MLflow."""

    def __init__(
        self, store: Store, plan: Plan, uri: str | None, max_attempts: int | None = None
    ) -> None:
        """Open the experiment and the parent run; `uri` None means the store's own database."""
        if uri is None:
            prepare_database(store)
        self._store, self._plan, self._max_attempts = store, plan, max_attempts
        self._client = MlflowClient(tracking_uri=uri or local_uri(store))
        self._experiment = self._find_experiment(local=uri is None)
        self._parent = self._find_parent()
        self._children: dict[str, list[Run]] = {}  # by key, the newest last
        for run in reversed(self._find_children()):
            self._children.setdefault(run.data.tags["gatera.key"], []).append(run)
        self._last_steps: dict[str, dict[str, int]] = {}  # by run id and metric
        self._read: dict[tuple[str, int], int] = {}  # lines read, by key and attempt
        self._open = {trial.key: trial for trial in plan.trials}  # without those that are finished

    def sync(self) -> None:
        """Bring the child runs up to what the store holds."""
        for key in list(self._store.begun(self._open)):
            if self._sync_trial(self._open[key]):
                del self._open[key]

    def _sync_trial(self, trial: Trial) -> bool:
        """Bring one run up to the store; return whether nothing more is to come."""
        result = self._store.result(trial.key)
        if result is None and not self._store.claims.newest(trial.key):
            return False
        run = self._child(trial, result)
        if run.info.status != "FINISHED":
            self._log_live(trial, run)
            if result is not None:
                self._finish(trial, run, result)
            elif (status := self._status(trial)) != run.info.status:
                self._set_status(trial, run, status)
        return result is not None

    def _status(self, trial: Trial) -> str:
        """Return what MLflow says of a trial without a result; one that failed may run again."""
        if not self._store.is_running(trial.key):
            if self._store.is_pruned(trial.key):
                return "KILLED"
            if self._store.has_failed(trial.key, self._max_attempts):
                return "FAILED"
        return "RUNNING"

    def log_report(self, folders: Mapping[str, Sequence[Path]]) -> None:
        """Put the report's files on the parent run, by folder, and end it."""
        run_id = self._parent.info.run_id
        for folder, paths in folders.items():
            for path in paths:
                self._client.log_artifact(run_id, str(path), folder)
        self._client.set_terminated(run_id)

    # Runs

    def _find_experiment(self, *, local: bool) -> str:
        found = self._client.get_experiment_by_name(self._plan.study)
        if found is not None:
            return str(found.experiment_id)
        location = (self._store.folder / "mlartifacts").as_uri() if local else None
        # The kind opens MLflow's page for training rather than the one for generative AI.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(self._plan.study, location, tags))

    def _find_parent(self) -> Run:
        found = self._search(f"tags.`gatera.plan` = '{self._plan.id}'")
        if found:
            return found[0]
        tags = {"gatera.plan": self._plan.id, "gatera.scale": self._plan.scale}
        return self._client.create_run(self._experiment, tags=tags, run_name=self._plan.id)

    def _find_children(self) -> list[Run]:
        return self._search(f"tags.`{_PARENT}` = '{self._parent.info.run_id}'")

    def _search(self, query: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _child(self, trial: Trial, result: TrialResult | None) -> Run:
        """Return the run of a trial, made where there is none for the code of its result."""
        runs = self._children.setdefault(trial.key, [])
        if result is not None:
            code = result.code_sha256[:16]
            fitting = [run for run in runs if run.data.tags.get("gatera.code", code) == code]
        else:
            fitting = runs
        if not fitting:
            runs.append(self._create_child(trial))
            fitting = runs[-1:]
            if result is None:
                self._client.log_batch(runs[-1].info.run_id, params=_settings_of(trial))
        return fitting[-1]

    def _create_child(self, trial: Trial) -> Run:
        tags = {
            _PARENT: self._parent.info.run_id,
            "gatera.key": trial.key,
            "gatera.variant": trial.variant,
            "gatera.seed": str(trial.seed),
        }
        name = f"{trial.variant}/{trial.key if trial.is_tuning else f'seed{trial.seed}'}"
        owner = self._store.claims.owner(trial.key, self._store.claims.newest(trial.key)) or {}
        return self._client.create_run(
            self._experiment,
            start_time=round(1000 * owner.get("claimed_at", time.time())),
            tags=tags,
            run_name=name,
        )

    # Points

    def _log_live(self, trial: Trial, run: Run) -> None:
        """Log the points of every attempt whose step is new; a resumed attempt repeats some."""
        run_id = run.info.run_id
        if run_id not in self._last_steps:
            self._last_steps[run_id] = self._logged_up_to(run)
        last = self._last_steps[run_id]
        metrics = []
        for attempt in range(1, self._store.claims.newest(trial.key) + 1):
            read = self._read.get((trial.key, attempt), 0)
            lines = self._store.metrics(trial.key, attempt, skip=read)
            self._read[trial.key, attempt] = read + len(lines)
            for name, value, step in (point for line in lines for point in _points(line)):
                if step > last.get(name, -1):
                    last[name] = step
                    metrics.append(Metric(name, value, _now(), step))
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _logged_up_to(self, run: Run) -> dict[str, int]:
        """Return the last step of each live metric that the run holds already."""
        last = {}
        for name in _LIVE:
            if name in run.data.metrics:
                history = self._client.get_metric_history(run.info.run_id, name)
                last[name] = max(point.step for point in history)
        return last

    def _finish(self, trial: Trial, run: Run, result: TrialResult) -> None:
        numbers = {
            **result.metrics,
            **_numbers("measured", result.measured),
            **{
                name: value
                for tokens in ("overall", "prompt", "answer")
                for name, value in _numbers(f"gate/{tokens}", result.gates.get(tokens, {})).items()
            },
        }
        last = max(self._last_steps.get(run.info.run_id, {}).values(), default=0)
        there = run.data.metrics  # all of them, where the one who logged them was killed then
        metrics = [
            Metric(name, float(value), _now(), last)
            for name, value in numbers.items()
            if name not in there or name in _LIVE
        ]
        tags = [
            RunTag("gatera.code", result.code_sha256[:16]),
            RunTag("gatera.attempt", str(result.attempt)),
        ]
        # Whoever made the run may have been killed before it came to the settings.
        params = [] if run.data.params else _settings_of(trial)
        self._client.log_batch(run.info.run_id, metrics=metrics, params=params, tags=tags)
        folder = self._store.attempt_folder(trial.key, result.attempt)
        self._client.log_artifact(run.info.run_id, str(folder / PREDICTIONS_FILE))
        if (trained := self._store.weights.recorded(trial.training_key)) is not None:
            adapter = self._store.weights.adapter_folder(trained)
            self._client.log_artifacts(run.info.run_id, str(adapter), adapter.name)
        end = run.info.start_time + round(1000 * self._store.seconds(trial.key))
        self._client.set_terminated(run.info.run_id, status="FINISHED", end_time=end)

    def _set_status(self, trial: Trial, run: Run, status: str) -> None:
        self._client.update_run(run.info.run_id, status=status)
        runs = self._children[trial.key]
        runs[runs.index(run)] = self._client.get_run(run.info.run_id)


def _settings_of(trial: Trial) -> list[Param]:
    settings = [Param(key, str(value)[:500]) for key, value in flatten(trial.config)]
    return [*settings, Param("seed", str(trial.seed))]


def flatten(config: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """Yield "section.field" and value for each field of a resolved configuration."""
    for section, fields in config.items():
        if isinstance(fields, Mapping):
            yield from ((f"{section}.{name}", value) for name, value in fields.items())
        else:
            yield section, fields


def _points(line: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of each live metric in a line of metrics.jsonl.

    Of a long training every so many steps alone, but each validation: MLflow takes a few hundred
    points a second.
    """
    step, last = int(line.get("step") or 0), int(line.get("max_steps") or 0)
    thinned = step != last and step % max(1, math.ceil(last / _MOST_POINTS))
    for name in _LIVE:
        if isinstance(line.get(name), int | float) and (name == _VALIDATED or not thinned):
            yield name, float(line[name]), step


def _now() -> int:
    """Return the time as MLflow counts it, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _numbers(prefix: str, values: Mapping[str, Json]) -> dict[str, float]:
    """Return the numbers among `values`, named `<prefix>/<name>`."""
    return {
        f"{prefix}/{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
