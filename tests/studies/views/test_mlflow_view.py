"""MLflow against a store with made-up results; one database for the module, as it takes seconds."""

import dataclasses
import json
import shutil
import threading

import pytest
from made_up import commit_result, note_end
from mlflow.tracking import MlflowClient
from optuna_journal import optuna_trials

from gatera.reports.forms.tracked_trial import live_points
from gatera.studies.store.store import Store
from gatera.studies.views import mlflow_database, mlflow_view
from gatera.studies.views.optuna_view import OptunaView
from gatera.studies.views.projection import Projector


def runs_of(store, plan):
    client = MlflowClient(tracking_uri=mlflow_database.local_uri(store))
    experiment = client.get_experiment_by_name(plan.study)
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "gatera.key" in run.data.tags]
    parents = [run for run in runs if "gatera.key" not in run.data.tags]
    return client, parents, children


def write_metrics(store, trial, attempt, steps):
    lines = [
        {"phase": "train", "step": s, "max_steps": 9, "train/loss": 1 / s, "gate/mean": 0.5}
        for s in steps
    ]
    path = store.attempt_folder(trial.key, attempt) / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_one_parent_and_one_child_for_each_trial(tracked, plan):
    for trial in plan.trials:
        commit_result(tracked, trial, 0.5)
    for _ in range(2):  # a second supervisor finds the runs again
        mlflow_view.Tracker(tracked, plan, None).sync()
    _, parents, children = runs_of(tracked, plan)
    assert [parent.info.run_name for parent in parents] == [plan.id]
    assert sorted(c.data.tags["gatera.key"] for c in children) == sorted(
        trial.key for trial in plan.trials
    )
    child = next(c for c in children if c.data.tags["gatera.variant"] == "hira")
    assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert child.data.params["adapter.gate"] == "none"
    assert child.data.params["train.batch_size"] == "8"
    assert child.data.metrics["test/accuracy/world_truth"] == 0.5
    assert child.data.metrics["measured/peak_memory_bytes"] == 2**28
    assert child.info.status == "FINISHED"
    assert child.info.end_time - child.info.start_time == 10_000  # 8 s of training, 2 of scoring
    gated = next(c for c in children if c.data.tags["gatera.variant"] == "gatera")
    assert gated.data.metrics["gate/overall/share_below_0.1"] == 0.5
    assert gated.data.metrics["gate/answer/entropy"] == 0.375


def test_points_are_logged_once_however_often_it_starts_again(tracked, plan):
    trial = plan.trials_of("gatera")[0]
    claim = tracked.claim(trial.key, {})
    write_metrics(tracked, trial, 1, [1, 2, 3])
    mlflow_view.Tracker(tracked, plan, None).sync()
    claim.release()
    claim = tracked.claim(trial.key, {})  # a second attempt, resumed from step 2
    write_metrics(tracked, trial, 2, [3, 4])
    tracker = mlflow_view.Tracker(tracked, plan, None)
    tracker.sync()
    write_metrics(tracked, trial, 2, [3, 4, 5])
    tracker.sync()
    client, _, children = runs_of(tracked, plan)
    history = client.get_metric_history(children[0].info.run_id, "train/loss")
    assert sorted(point.step for point in history) == [1, 2, 3, 4, 5]
    assert children[0].info.status == "RUNNING"
    claim.release()


def test_what_a_run_holds_is_asked_once_however_often_it_is_brought_up_to_date(
    tracked, plan, monkeypatch
):
    trial = plan.trials_of("gatera")[0]
    claim = tracked.claim(trial.key, {})
    write_metrics(tracked, trial, 1, [1, 2])
    mlflow_view.Tracker(tracked, plan, None).sync()
    asked = []
    history = MlflowClient.get_metric_history

    def noted(client, run_id, name):
        asked.append(name)
        return history(client, run_id, name)

    monkeypatch.setattr(MlflowClient, "get_metric_history", noted)
    tracker = mlflow_view.Tracker(tracked, plan, None)
    for last in (3, 4, 5):
        write_metrics(tracked, trial, 1, range(1, last))
        tracker.sync()
    assert sorted(asked) == ["gate/mean", "train/loss"]
    claim.release()


def test_a_failed_trial_is_a_failed_run(tracked, plan):
    trial = plan.trials_of("gatera")[0]
    for attempt in (1, 2):
        tracked.claim(trial.key, {}).release()
        note_end(tracked, trial.key, attempt, "bug", "it broke", "")
    mlflow_view.Tracker(tracked, plan, None).sync()
    _, _, children = runs_of(tracked, plan)
    assert [child.info.status for child in children] == ["FAILED"]


def test_a_failed_run_goes_on_with_its_trial(tracked, plan):
    trial = plan.trials_of("gatera")[0]
    for attempt in (1, 2):
        tracked.claim(trial.key, {}).release()
        note_end(tracked, trial.key, attempt, "bug", "it broke", "")
    tracker = mlflow_view.Tracker(tracked, plan, None)

    def statuses():
        tracker.sync()
        return [child.info.status for child in runs_of(tracked, plan)[2]]

    assert statuses() == ["FAILED"]
    tracked.forgive_failures(trial.key)
    assert statuses() == ["RUNNING"]
    commit_result(tracked, trial, 0.5)
    assert statuses() == ["FINISHED"]
    _, _, children = runs_of(tracked, plan)
    assert children[0].data.metrics["test/accuracy"] == 0.5


def test_a_trial_fails_in_both_views_at_the_limit_that_was_asked_for(tracked, plan):
    trial = plan.trials_of("gatera")[0]
    for attempt in (1, 2):
        tracked.claim(trial.key, {}).release()
        note_end(tracked, trial.key, attempt, "bug", "it broke", "")
    mlflow_view.Tracker(tracked, plan, None, max_attempts=3).sync()
    assert [child.info.status for child in runs_of(tracked, plan)[2]] == ["RUNNING"]
    OptunaView(tracked, plan, max_attempts=3).sync()
    assert optuna_trials(tracked) == []
    OptunaView(tracked, plan).sync()
    assert [trial.state.name for trial in optuna_trials(tracked)] == ["FAIL"]


def test_a_pruned_trial_is_a_killed_run(tracked, plan):
    trial = plan.trials_of("gatera")[0]
    tracked.claim(trial.key, {}).release()
    tracked.prune(trial.key, 40)
    mlflow_view.Tracker(tracked, plan, None).sync()
    assert [child.info.status for child in runs_of(tracked, plan)[2]] == ["KILLED"]


def test_the_report_and_the_predictions_are_artifacts(tracked, plan, tmp_path):
    trial = plan.trials_of("gatera")[0]
    commit_result(tracked, trial, 0.5)
    report = tmp_path / "made_up.tiny.md"
    report.write_text("# a report")
    tracker = mlflow_view.Tracker(tracked, plan, None)
    tracker.sync()
    tracker.log_report({"report": [report]})
    client, parents, children = runs_of(tracked, plan)
    stored = client.list_artifacts(parents[0].info.run_id, "report")
    assert [item.path for item in stored] == ["report/made_up.tiny.md"]
    names = [item.path for item in client.list_artifacts(children[0].info.run_id)]
    assert names == ["predictions.parquet"]
    artifacts = tracked.folder / "mlartifacts"
    assert list(artifacts.rglob("made_up.tiny.md"))


def test_an_empty_database_is_made_once_for_all_stores(tmp_path, monkeypatch, database):
    monkeypatch.setenv("GATERA_CACHE", str(tmp_path / "cache"))
    made = []

    def migrate(path):
        made.append(path)
        shutil.copyfile(database, path)

    monkeypatch.setattr(mlflow_database, "_migrate", migrate)
    stores = [Store(tmp_path / name, create=True) for name in ("a", "b", "c")]
    for store in stores[:2]:
        mlflow_database.prepare_database(store)
        assert (store.folder / "mlflow.db").read_bytes() == database.read_bytes()
    assert len(made) == 1
    (cached,) = (tmp_path / "cache").glob("*.db")
    cached.write_bytes(b"half")
    mlflow_database.prepare_database(stores[2])
    assert len(made) == 2
    assert (stores[2].folder / "mlflow.db").read_bytes() == database.read_bytes()


def test_a_cache_that_cannot_be_used_is_no_hindrance(store, tmp_path, monkeypatch, database):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("GATERA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mlflow_database, "_migrate", lambda path: shutil.copyfile(database, path))
    mlflow_database.prepare_database(store)
    assert (store.folder / "mlflow.db").read_bytes() == database.read_bytes()


def test_two_makers_of_the_database_do_not_meet(store):
    makers = [
        threading.Thread(target=mlflow_database.prepare_database, args=(store,)) for _ in range(2)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    client = MlflowClient(tracking_uri=mlflow_database.local_uri(store))
    assert client.search_experiments()
    assert not list(store.folder.glob(".mlflow-*"))


def test_a_result_of_other_code_is_one_more_run_however_often_it_starts_again(tracked, plan):
    trial = plan.trials_of("gatera")[0]
    commit_result(tracked, trial, 0.5)
    mlflow_view.Tracker(tracked, plan, None).sync()
    tracked.retire_result(trial.key, "older")
    commit_result(tracked, trial, 0.75, scoring={"code": {"a.py": "other"}})
    for _ in range(3):
        mlflow_view.Tracker(tracked, plan, None).sync()
    _, _, children = runs_of(tracked, plan)
    found = {c.data.tags["gatera.code"]: c.data.metrics["test/accuracy"] for c in children}
    assert len(found) == len(children) == 2
    assert sorted(found.values()) == [0.5, 0.75]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("call", ["log_batch", "set_terminated"])
def test_a_run_that_was_cut_short_is_completed_and_nothing_stands_twice(
    tracked, plan, monkeypatch, call
):
    trial = plan.trials_of("gatera")[0]
    claim = tracked.claim(trial.key, {})
    if call == "set_terminated":
        mlflow_view.Tracker(tracked, plan, None).sync()
    claim.release()
    commit_result(tracked, trial, 0.5)

    def die(*arguments, **options):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, call, die)
        with pytest.raises(KilledError):
            mlflow_view.Tracker(tracked, plan, None).sync()
    mlflow_view.Tracker(tracked, plan, None).sync()
    client, _, (child,) = runs_of(tracked, plan)
    assert child.data.params["adapter.gate"] == "token"
    assert child.info.status == "FINISHED"
    history = client.get_metric_history(child.info.run_id, "test/accuracy")
    assert [point.value for point in history] == [0.5]


@pytest.fixture
def told(tracked, plan, tmp_path, monkeypatch):
    """A store whose trials have ended: what follows a run of it, and says if MLflow was asked."""
    for trial in plan.trials:
        commit_result(tracked, trial, 0.5)
    report = tmp_path / "report.md"
    report.write_text("a table")
    asked = []
    original = mlflow_view.Tracker.__init__

    def noting(tracker, *arguments, **keywords):
        asked.append(1)
        original(tracker, *arguments, **keywords)

    monkeypatch.setattr(mlflow_view.Tracker, "__init__", noting)

    def follow(uri=None, plan=plan):
        asked.clear()
        projector = Projector(tracked, plan, uri, None)
        projector.start()
        projector.finish((report,))
        assert projector.warnings == []
        return bool(asked)

    return follow, report


def test_a_run_without_news_does_not_ask_mlflow(told, tracked, plan, database):
    follow, report = told
    assert follow()
    assert not follow()
    report.write_text("another table")
    assert follow()
    assert not follow()
    trial = plan.trials_of("hira")[1]
    tracked.retire_result(trial.key, "older")
    assert follow()
    commit_result(tracked, trial, 0.75)
    assert follow()
    assert not follow()
    client, _, children = runs_of(tracked, plan)
    client.delete_run(children[3].info.run_id)
    assert follow()
    assert not follow()
    assert len(runs_of(tracked, plan)[2]) == len(plan.trials)
    shutil.copy(database, tracked.folder / "mlflow.db")  # taken away, and made anew by another plan
    assert follow()
    assert len(runs_of(tracked, plan)[2]) == len(plan.trials)


def test_what_one_server_was_told_another_does_not_know(
    told, tracked, plan, database, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a database that is not ours
    follow, _ = told
    assert follow()
    other = tmp_path / "other.db"
    shutil.copy(database, other)
    assert follow(f"sqlite:///{other}")
    assert not follow(f"sqlite:///{other}")
    assert not follow()
    (tracked.folder / "views.json").write_text("[]")
    assert follow()
    assert follow(plan=dataclasses.replace(plan, trials=plan.trials[:4], departures={"seeds": 1}))


def test_of_a_long_training_mlflow_has_hundreds_of_points_and_every_validation():
    lines = [
        {"step": step, "max_steps": 20_000, "train/loss": 1.0, "learning_rate": 0.1}
        | ({"val/accuracy": 0.5} if step % 999 == 0 else {})
        for step in range(1, 20_001)
    ]
    points = [point for line in lines for point in live_points(line)]
    steps = [step for name, _, step in points if name == "train/loss"]
    assert 400 <= len(steps) <= 501
    assert steps[-1] == 20_000
    assert len([name for name, _, _ in points if name == "val/accuracy"]) == 20
    assert len(list(live_points({**lines[6], "max_steps": 80}))) == 2
