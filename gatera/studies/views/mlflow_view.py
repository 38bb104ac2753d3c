"""MLflow's view of a study: one parent run a plan, one child run a trial.

A projection of the store, like the one for Optuna: nothing depends on it. Runs are found again by
their tags (`gatera.plan`, `gatera.key`), points by their step, adapters by their run, so that a
supervisor that was killed goes on without writing anything twice.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
# A server that went away is asked again in the next round; MLflow alone would wait for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # tables alone go there

from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.tracking import MlflowClient

from gatera.reports.forms.tracked_trial import (
    LIVE,
    data_sets,
    live_points,
    numbers_of,
    scored_on,
    settings_of,
    source_of,
    texts,
)
from gatera.studies.planning.plan import Plan
from gatera.studies.store.store import Store
from gatera.studies.views.mlflow_database import (
    can_link,
    local_uri,
    prepare_database,
)
from gatera.studies.views.mlflow_models import Models
from gatera.training.attempt_files import PREDICTIONS_FILE
from gatera.trial import Trial, TrialResult

if TYPE_CHECKING:
    from gatera.reports.forms.tracked import Tracked

_BATCH = 900  # MLflow takes at most 1,000 metrics a call
_PARENT = "mlflow.parentRunId"
_DESCRIPTION = "mlflow.note.content"
# Opens MLflow's page for training rather than the one for generative AI.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_OF_MODELS = ("test/", "knowledge/")  # begin the metrics that say how good an adapter is


class Tracker:
    """Writes one plan's trials to MLflow."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        uri: str | None,
        max_attempts: int | None = None,
        *,
        models: bool = True,
    ) -> None:
        """Open the experiment and the parent run.

        `uri` None means the store's own database; without `models` adapters are left out.
        """
        if uri is None:
            prepare_database(store)
        self._store, self._plan, self._max_attempts = store, plan, max_attempts
        self._client = MlflowClient(tracking_uri=uri or local_uri(store))
        experiment = self._find_experiment(local=uri is None)
        self._experiment = str(experiment.experiment_id)
        # A server's files are its own, whatever folder it names.
        is_served = urlsplit(uri or "").scheme in ("http", "https")
        links = not is_served and can_link(store, experiment.artifact_location)
        made = Models(self._client, store, plan, self._experiment, links)
        self._models = made if models else None
        self._parent = self._find_parent()
        self._children: dict[str, list[Run]] = {}  # by key, the newest last
        children = self._find_children(self._parent)
        for run in reversed(children):
            self._children.setdefault(run.data.tags["gatera.key"], []).append(run)
        # Of runs that are there already, one who was killed may have made the models.
        self._found = {run.info.run_id for run in children}
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

    def log_report(
        self, folders: Mapping[str, Sequence[Path]], shown: Tracked | None = None
    ) -> None:
        """Put the report's files, by folder, and its numbers on the parent run, and end it."""
        run_id = self._parent.info.run_id
        if shown is not None:
            self._show(shown)
        for folder, paths in folders.items():
            for path in paths:
                self._client.log_artifact(run_id, str(path), folder)
        self._client.set_terminated(run_id)

    def _show(self, shown: Tracked) -> None:
        """Let the parent run have a table's numbers: those that are other than it has.

        MLflow forgets no metric: one that the table has no longer becomes NaN.
        """
        run_id = self._parent.info.run_id
        there = self._client.get_run(run_id).data.metrics
        gone = {name: math.nan for name, value in there.items() if not math.isnan(value)}
        metrics = [
            Metric(name, value, _now(), 0)
            for name, value in {**gone, **shown.metrics}.items()
            if name not in there or there[name] != value
        ]
        tags = {
            _DESCRIPTION: shown.description,
            "gatera.reference": self._plan.reference,
            "gatera.endpoint": self._plan.endpoint,
        }
        self._client.log_batch(run_id, tags=_tags(tags))
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    # Runs

    def _find_experiment(self, *, local: bool) -> Experiment:
        found = self._client.get_experiment_by_name(self._plan.study)
        if found is None:
            location = (self._store.folder / "mlartifacts").as_uri() if local else None
            made = self._client.create_experiment(self._plan.study, location, _KIND)
            found = self._client.get_experiment(made)
        return found

    def _find_parent(self) -> Run:
        """Return the plan's run, with the settings that its rows share as parameters.

        MLflow lets no parameter change: where the study's settings have, a new run takes the
        children over, and the former one goes to MLflow's bin.
        """
        params = {} if self._plan.is_tuning else texts(self._plan.shared())
        found = self._search(f"tags.`gatera.plan` = '{self._plan.id}'")
        fitting = [run for run in found if run.data.params.items() <= params.items()]
        parent = fitting[0] if fitting else self._create_parent()
        if params != parent.data.params:
            self._client.log_batch(parent.info.run_id, params=_params(params))
        for former in found:
            if former.info.run_id != parent.info.run_id:
                for child in self._find_children(former):
                    self._client.set_tag(child.info.run_id, _PARENT, parent.info.run_id)
                self._client.delete_run(former.info.run_id)
        return parent

    def _create_parent(self) -> Run:
        tags = {**_source(self._plan), "gatera.plan": self._plan.id}
        tags["gatera.scale"] = self._plan.scale
        return self._client.create_run(self._experiment, tags=tags, run_name=self._plan.id)

    def _find_children(self, parent: Run) -> list[Run]:
        return self._search(f"tags.`{_PARENT}` = '{parent.info.run_id}'")

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
                self._client.log_batch(runs[-1].info.run_id, params=_params(settings_of(trial)))
                self._client.log_inputs(runs[-1].info.run_id, _inputs(trial))
        return fitting[-1]

    def _create_child(self, trial: Trial) -> Run:
        tags = {
            **_source(self._plan),
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
            for name, value, step in (point for line in lines for point in live_points(line)):
                if step > last.get(name, -1):
                    last[name] = step
                    metrics.append(Metric(name, value, _now(), step))
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _logged_up_to(self, run: Run) -> dict[str, int]:
        """Return the last step of each live metric that the run holds already."""
        last = {}
        for name in LIVE:
            if name in run.data.metrics:
                history = self._client.get_metric_history(run.info.run_id, name)
                last[name] = max(point.step for point in history)
        return last

    def _finish(self, trial: Trial, run: Run, result: TrialResult) -> None:
        run_id = run.info.run_id
        last = max(self._last_steps.get(run_id, {}).values(), default=0)
        is_new = run_id not in self._found
        models = self._models
        model = None if models is None else models.of(trial, run_id, is_new=is_new)
        points = self._points_left(run, numbers_of(result), last, model)
        if model is not None:
            points = [_of_model(point, model, trial) for point in points]
        # Whoever made the run may have been killed before it came to the settings.
        params = [] if run.data.params else _params(settings_of(trial))
        tags = {"gatera.code": result.code_sha256[:16], "gatera.attempt": str(result.attempt)}
        tags |= source_of(result)
        self._client.log_batch(run_id, metrics=points, params=params, tags=_tags(tags))
        if not run.inputs.dataset_inputs:
            self._client.log_inputs(run_id, _inputs(trial))
        if model is not None and not (run.outputs and run.outputs.model_outputs):
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, last)])
        folder = self._store.attempt_folder(trial.key, result.attempt)
        self._client.log_artifact(run_id, str(folder / PREDICTIONS_FILE))
        end = run.info.start_time + round(1000 * self._store.seconds(trial.key))
        self._client.set_terminated(run_id, status="FINISHED", end_time=end)

    def _points_left(
        self, run: Run, numbers: Mapping[str, float], step: int, model: LoggedModel | None
    ) -> list[Metric]:
        """Return what a finished trial measured, but for what one who was killed logged.

        The run gets its points together: of those that are no course, all are there or none. Then
        the model gets its own; where it has none yet, the run's are handed in again, which MLflow
        knows for the same.
        """
        there = run.data.metrics
        if not any(name in there for name in numbers.keys() - set(LIVE)):
            return [Metric(name, float(value), _now(), step) for name, value in numbers.items()]
        if model is None or model.metrics:
            return []
        names = [name for name in there if name.startswith(_OF_MODELS)]
        return [self._client.get_metric_history(run.info.run_id, name)[-1] for name in names]

    def _set_status(self, trial: Trial, run: Run, status: str) -> None:
        self._client.update_run(run.info.run_id, status=status)
        runs = self._children[trial.key]
        runs[runs.index(run)] = self._client.get_run(run.info.run_id)


def _source(plan: Plan) -> dict[str, str]:
    """Return the tags by which MLflow says what made a run: the study, nothing of this machine."""
    return {"mlflow.source.name": plan.study, "mlflow.source.type": "LOCAL"}


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in tags.items()]


def _params(settings: Mapping[str, str]) -> list[Param]:
    return [Param(name, value) for name, value in settings.items()]


def _inputs(trial: Trial) -> list[DatasetInput]:
    """Return the data sets of a trial as MLflow has them; it calls what they are for a context."""
    return [
        DatasetInput(
            Dataset(each.name, each.digest, "gatera", json.dumps({"sha256": each.sha256})),
            [InputTag("mlflow.data.context", each.context)],
        )
        for each in data_sets(trial)
    ]


def _of_model(point: Metric, model: LoggedModel, trial: Trial) -> Metric:
    """Return a point of a run as one of its model too, where it says how good the model is."""
    if not point.key.startswith(_OF_MODELS):
        return point
    on = scored_on(trial, point.key)
    return Metric(
        point.key,
        point.value,
        point.timestamp,
        point.step,
        model_id=model.model_id,
        dataset_name=None if on is None else on.name,
        dataset_digest=None if on is None else on.digest,
    )


def _now() -> int:
    """Return the time as MLflow counts it, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
