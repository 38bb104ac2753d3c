"""What MLflow's users look for: the table on the parent run, the data and adapters of others."""

import dataclasses
import json
import math

import pytest
from made_up import commit_result
from mlflow.tracking import MlflowClient

from gatera.reports.forms.tracked import tracked as table_of
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.views import mlflow_database, mlflow_view
from gatera.studies.views.projection import Projector

SCORES = {"frozen": 0.2, "hira": 0.5, "static_gate": 0.625, "gatera": 0.75}


def finish(store, plan):
    for trial in plan.trials:
        commit_result(store, trial, SCORES[trial.variant] + trial.seed / 100)


def show(store, plan):
    """Bring MLflow up to the store, as the end of a run does; return its client and its runs."""
    tracker = mlflow_view.Tracker(store, plan, None)
    tracker.sync()
    tracker.log_report({}, table_of(build_table(gather(store, plan))))
    client = MlflowClient(tracking_uri=mlflow_database.local_uri(store))
    experiment = client.get_experiment_by_name(plan.study)
    runs = client.search_runs([experiment.experiment_id])
    children = {run.info.run_name: run for run in runs if "gatera.key" in run.data.tags}
    (parent,) = [run for run in runs if "gatera.key" not in run.data.tags]
    assert len(children) == len(runs) - 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {
        parent.info.run_id
    }
    return client, parent, children


def models_of(client, plan, query=None):
    experiment = client.get_experiment_by_name(plan.study)
    return client.search_logged_models([experiment.experiment_id], query)


def test_the_parent_has_the_table(tracked, plan):
    finish(tracked, plan)
    client, parent, _ = show(tracked, plan)
    metrics, tags = parent.data.metrics, parent.data.tags
    assert metrics["hira/accuracy/world_truth"] == pytest.approx(0.51)
    assert metrics["gatera/average"] == pytest.approx(0.76)
    assert metrics["gatera/average_sd"] == pytest.approx(0.01)
    assert metrics["hira/difference"] == pytest.approx(-0.25)
    assert metrics["hira/seeds"] == 3
    assert "gatera/difference" not in metrics
    assert "frozen/average_sd" not in metrics
    assert tags["mlflow.note.content"].startswith("## Findings\n\n- ")
    assert "| gatera (reference) | 3 | 76.00 ± 1.00 |" in tags["mlflow.note.content"]
    assert (tags["gatera.reference"], tags["gatera.endpoint"]) == ("gatera", "accuracy")
    assert parent.data.params["train.batch_size"] == "8"
    assert not {"adapter.gate", "seed"} & parent.data.params.keys()
    assert "adapter.r" in parent.data.params
    experiment = client.get_experiment_by_name(plan.study)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    page = f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}"
    addresses = {plan.study: f"{page}?workflowType=machine_learning"}
    assert mlflow_database.ui_addresses(tracked, 5000) == addresses


def test_only_what_has_changed_is_logged_again(tracked, plan):
    finish(tracked, plan)
    show(tracked, plan)
    show(tracked, plan)
    trial = plan.trials_of("hira")[1]
    tracked.retire_result(trial.key, "older")
    commit_result(tracked, trial, 0.8)
    tracked.retire_result(plan.trials_of("static_gate")[0].key, "older")
    client, parent, _ = show(tracked, plan)

    def history(name):
        return [point.value for point in client.get_metric_history(parent.info.run_id, name)]

    assert history("gatera/average") == [pytest.approx(0.76)]
    assert history("hira/average") == [pytest.approx(0.51), pytest.approx((0.5 + 0.8 + 0.52) / 3)]
    assert parent.data.metrics["hira/average"] == history("hira/average")[1]
    for trial in plan.trials_of("static_gate")[1:]:  # so that nothing is left of the row
        tracked.retire_result(trial.key, "older")
    for _ in range(2):
        client, parent, _ = show(tracked, plan)
    assert math.isnan(parent.data.metrics["static_gate/average"])
    assert len(history("static_gate/average")) == 3  # of three seeds, of two, none


def test_a_parent_whose_settings_changed_gives_its_children_to_another(tracked, study, plan):
    finish(tracked, plan)
    _, former, _ = show(tracked, plan)
    changed = make_plan(study, Request(overrides={"train.learning_rate": 0.5}))
    changed = dataclasses.replace(changed, departures={})
    for _ in range(2):
        client, parent, children = show(tracked, changed)
        assert parent.info.run_id != former.info.run_id
        assert parent.data.params["train.learning_rate"] == "0.5"
        assert len(children) == len(plan.trials)
    assert client.get_run(former.info.run_id).info.lifecycle_stage == "deleted"


def test_a_child_names_its_data_and_where_it_comes_from(tracked, plan):
    trial = plan.trials_of("hira")[0]
    commit_result(tracked, trial, 0.5, commit="c" * 40, dirty=False)
    commit_result(tracked, plan.trials_of("frozen")[0], 0.2)
    _, _, children = show(tracked, plan)
    found = {
        (each.dataset.name, each.tags[0].value): each.dataset.digest
        for each in children["hira/seed0"].inputs.dataset_inputs
    }
    data = trial.identities["data"]
    assert len(found) == 2 * len(data) + 1
    assert found["world_truth", "train"] == data["world_truth"]["train"][:16]
    assert found["world_truth", "test"] == data["world_truth"]["test"][:16]
    items = ("items that train and validate", "train and validation")
    assert found[items] == trial.identities["items"][:16]
    assert len(children["frozen/seed0"].inputs.dataset_inputs) == len(data)
    tags = children["hira/seed0"].data.tags
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == (plan.study, "LOCAL")
    assert tags["mlflow.source.git.commit"] == "c" * 40
    assert "mlflow.source.git.commit" not in children["frozen/seed0"].data.tags


def test_an_adapter_is_a_model_that_refers_into_the_store(tracked, plan):
    finish(tracked, plan)
    client, _, children = show(tracked, plan)
    assert len(models_of(client, plan)) == len(plan.trials) - 1  # frozen has none
    (model,) = models_of(client, plan, "tags.`gatera.variant` = 'hira' AND name = 'hira-seed1'")
    run = children["hira/seed1"]
    assert (model.source_run_id, model.status) == (run.info.run_id, "READY")
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    assert model.params["adapter.gate"] == "none"
    trial = plan.trials_of("hira")[1]
    assert model.tags["gatera.adapter"] == f"trials/{trial.key}/attempts/1/adapter"
    ours = tracked.folder / model.tags["gatera.adapter"]
    theirs = mlflow_database.local_folder(model.artifact_location)
    names = sorted(path.name for path in ours.iterdir())
    assert [each.path for each in client.list_logged_model_artifacts(model.model_id)] == names
    assert all((theirs / name).samefile(ours / name) for name in names)
    good = models_of(client, plan, "metrics.`test/accuracy/world_truth` > 0.7")
    assert {model.tags["gatera.variant"] for model in good} == {"gatera"}
    assert {each.dataset_name for each in good[0].metrics} >= {"world_truth"}


def test_a_model_skips_what_its_row_skips_and_the_store_stays_as_it_is(tracked, study):
    plan = make_plan(study, Request(overrides={"adapter.gate_threshold": 0.25}))
    commit_result(tracked, plan.trials_of("gatera")[0], 0.5)
    client, _, _ = show(tracked, plan)
    (model,) = models_of(client, plan)
    folders = (
        mlflow_database.local_folder(model.artifact_location),
        tracked.folder / model.tags["gatera.adapter"],
    )
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in folders]
    assert [config["gate_threshold"] for config in configs] == [0.25, 0.0]


def test_where_no_link_leads_to_the_store_a_model_says_where_its_adapter_is(
    tracked, plan, monkeypatch
):
    monkeypatch.setattr(mlflow_view, "can_link", lambda store, location: False)
    commit_result(tracked, plan.trials_of("hira")[0], 0.5)
    client, _, _ = show(tracked, plan)
    (model,) = models_of(client, plan)
    assert model.status == "READY"
    assert client.list_logged_model_artifacts(model.model_id) == []
    said = model.tags["mlflow.note.content"]
    assert "`python -m gatera.studies export made_up hira 0`, with the options of the run" in said


def test_links_are_made_on_one_file_system_alone(store, tmp_path):
    assert mlflow_database.can_link(store, (tmp_path / "a b").as_uri())
    assert mlflow_database.can_link(store, str(tmp_path / "a%20b"))
    assert sorted(path.name for path in tmp_path.glob("a*")) == ["a b", "a%20b"]
    assert not mlflow_database.can_link(store, "mlflow-artifacts:/1")
    assert not mlflow_database.can_link(store, "/proc/mlruns")


class KilledError(Exception):
    pass


CALLS = ["create_run", "create_logged_model", "finalize_logged_model", "log_batch", "log_inputs"]
CALLS += ["log_outputs", "log_artifact", "set_terminated"]


@pytest.mark.parametrize("call", CALLS)
def test_whatever_is_killed_goes_on_and_nothing_stands_twice(tracked, plan, monkeypatch, call):
    commit_result(tracked, plan.trials_of("hira")[0], 0.5, metrics={"train/loss": 0.25})
    original = getattr(MlflowClient, call)
    left = 2 if call in ("create_run", "log_batch") else 1  # the first is of the parent

    def die_after(*arguments, **options):
        nonlocal left
        left -= 1
        done = original(*arguments, **options)
        if left == 0:
            raise KilledError
        return done

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, call, die_after)
        with pytest.raises(KilledError):
            show(tracked, plan)
    for _ in range(2):
        client, parent, children = show(tracked, plan)
    (run,) = children.values()
    assert run.info.status == "FINISHED"
    assert len(run.inputs.dataset_inputs) == 2 * len(plan.tasks) + 1
    (model,) = models_of(client, plan)
    assert model.status == "READY"
    assert {each.key for each in model.metrics} >= {"test/accuracy"}
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    for each in (run, parent):
        for name in each.data.metrics:
            assert len(client.get_metric_history(each.info.run_id, name)) == 1, name


def test_a_projector_that_was_killed_at_the_report_is_made_good(
    tracked, plan, monkeypatch, tmp_path
):
    finish(tracked, plan)
    report = tmp_path / "report.md"
    report.write_text("a table")

    def project():
        projector = Projector(tracked, plan, None, None)
        projector.start()
        projector.finish((report,))
        return projector.warnings

    with monkeypatch.context() as patched:

        def die(*arguments, **options):
            raise KilledError

        patched.setattr(mlflow_view.Tracker, "log_report", die)
        assert "KilledError" in project()[0]
    assert project() == []
    client, parent, _ = show(tracked, plan)
    assert len(client.get_metric_history(parent.info.run_id, "gatera/average")) == 1
    assert client.list_artifacts(parent.info.run_id, "report")
