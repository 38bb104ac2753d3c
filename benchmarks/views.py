"""What Optuna and MLflow say of a store's studies, to be compared with what it says itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

VIEWS = ("optuna.journal", "mlflow.db")
_TAGS = ("gatera.", "mlflow.note.", "mlflow.source.")


def content(store: Path, copy: Path) -> tuple[dict[str, Any], list[Any]]:
    """Return what both views say of all studies, without numbers of their own and MLflow's times.

    Args:
        store: Its folder.
        copy: Where the database is copied to: MLflow keeps one open, deleted or not.

    Returns:
        MLflow's runs by name, and Optuna's trials by study and key.
    """
    return _runs(store, copy), _trials(store)


def _runs(store: Path, copy: Path) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    shutil.copy(store / "mlflow.db", copy)
    client = MlflowClient(tracking_uri=f"sqlite:///{copy}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    models = _models(client, experiments)
    names = {run.info.run_id: run.info.run_name for run in runs}
    found = {}
    for run in runs:
        tags = {k: v for k, v in run.data.tags.items() if k.startswith(_TAGS)}
        histories = {
            name: sorted(
                (point.step, point.value)
                for point in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        }
        artifacts = sorted(item.path for item in client.list_artifacts(run.info.run_id))
        parent = names.get(run.data.tags.get("mlflow.parentRunId", ""))
        inputs = sorted(
            (each.dataset.name, each.dataset.digest, [tag.value for tag in each.tags])
            for each in run.inputs.dataset_inputs
        )
        of_run = [models[each.model_id] for each in run.outputs.model_outputs]
        described = (parent, run.info.status, tags, run.data.params, histories, artifacts)
        described = (*described, inputs, of_run)
        assert run.info.run_name not in found, f"two runs are called {run.info.run_name}"
        found[run.info.run_name] = described
    return found


def _models(client: Any, experiments: list[str]) -> dict[str, Any]:
    """Return MLflow's models by id, without what is theirs alone; each is of one run."""
    found, token = {}, None
    while True:
        page = client.search_logged_models(experiments, page_token=token)
        for model in page:
            values = sorted((each.key, each.value, each.dataset_name) for each in model.metrics)
            told = (model.name, model.status, model.tags, model.params, values)
            files = sorted(each.path for each in client.list_logged_model_artifacts(model.model_id))
            found[model.model_id] = (*told, files)
        token = page.token
        if not token:
            return found


def _trials(store: Path) -> list[Any]:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(store / "optuna.journal")))
    found = []
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False):
            told = (trial.state, trial.value, trial.params, trial.intermediate_values)
            times = (trial.datetime_start, trial.datetime_complete)
            found.append((name, trial.user_attrs["key"], trial.user_attrs, told, times))
    return sorted(found, key=lambda each: each[:2])


def differences_to_rebuilt(store: Path, folder: Path) -> list[str]:
    """Return where a store's views differ from those that `sync` makes anew; nothing must.

    Args:
        store: Its folder, which is left as it is.
        folder: Where a copy of it goes.
    """
    rebuilt = folder / "rebuilt"
    shutil.copytree(store, rebuilt)
    for name in VIEWS:
        (rebuilt / name).unlink()
    command = [sys.executable, "-m", "gatera.studies", "sync", str(rebuilt)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ours, anew = content(store, folder / "ours.db"), content(rebuilt, folder / "anew.db")
    return [
        f"{name} is not what `sync` makes anew"
        for name, a, b in zip(VIEWS[::-1], ours, anew, strict=True)
        if a != b
    ]
