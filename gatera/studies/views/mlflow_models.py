"""MLflow's logged models: each stands for a trained adapter, whose files stay in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatera.reports.forms.tracked_trial import how_to_load, settings_of
from gatera.studies.export import refer_to_adapter
from gatera.studies.planning.plan import Plan
from gatera.studies.store.store import Store
from gatera.studies.views.mlflow_database import local_folder
from gatera.trial import Trained, Trial

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient


class Models:
    """The models of one plan's runs."""

    def __init__(
        self, client: MlflowClient, store: Store, plan: Plan, experiment: str, links: bool
    ) -> None:
        """Keep models in an experiment; `links`: their files are links to those of the store."""
        self._client, self._store, self._plan = client, store, plan
        self._experiment, self._links = experiment, links

    def of(self, trial: Trial, run_id: str, *, is_new: bool) -> LoggedModel | None:
        """Return the model that stands for a trial's adapter; None where it has none.

        Args:
            trial: The trial.
            run_id: Of its run.
            is_new: Whether nobody before us had the run, and may have made its model.
        """
        trained = self._store.weights.recorded(trial.training_key)
        if trained is None:
            return None
        known = None if is_new else self._of_run(run_id)
        model = known or self._create(trial, trained, run_id)
        if self._links:
            folder = local_folder(model.artifact_location)
            refer_to_adapter(self._store.weights.adapter_folder(trained), trial, folder)
        self._client.finalize_logged_model(model.model_id, "READY")
        return model

    def _of_run(self, run_id: str) -> LoggedModel | None:
        query = f"source_run_id = '{run_id}'"
        found = self._client.search_logged_models([self._experiment], query)
        return found[0] if found else None

    def _create(self, trial: Trial, trained: Trained, run_id: str) -> LoggedModel:
        folder = self._store.weights.adapter_folder(trained)
        place = str(folder.relative_to(self._store.folder))
        tags = {
            "gatera.variant": trial.variant,
            "gatera.seed": str(trial.seed),
            "gatera.key": trial.key,
            "gatera.training_key": trial.training_key,
            "gatera.adapter": place,
            "mlflow.note.content": how_to_load(
                trial, self._plan.study, place, is_there=self._links
            ),
        }
        params = settings_of(trial).items()
        return self._client.create_logged_model(
            self._experiment,
            name=f"{trial.variant}-seed{trial.seed}",
            source_run_id=run_id,
            tags=tags,
            params={n: v for n, v in params if n.startswith(("adapter.", "backbone."))},
            model_type="adapter",
        )
