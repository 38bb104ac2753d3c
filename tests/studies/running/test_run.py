"""Whole runs of real, very short trainings: interrupted, killed, repeated, failing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from processes import noted

SHORT = ["--set", "train.max_steps=2", "--set", "eval.limit=2", "--set", "train.batch_size=4"]
SHORT += ["--set", "train.checkpoint_every=1"]
RUN = [sys.executable, "-m", "gatera.studies", "run"]


def run(*arguments, cwd, check=None):
    done = subprocess.run(
        [*RUN, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=600
    )
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def results_of(store: Path) -> dict[str, str]:
    """Return each result by key, without what a clock or a host says."""
    found = {}
    for path in store.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        del result["measured"], result["attempt"]
        found[path.parent.name] = json.dumps(result, sort_keys=True)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which a short study has run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = ["ablation_table5", "--seeds", "2", "--variants", "hira,gatera", *SHORT]
    done = run(*arguments, cwd=folder, check=0)
    return folder, arguments, done


def test_a_run_prints_its_table_and_writes_every_form(finished):
    folder, _, done = finished
    assert done.stdout.startswith("# ablation_table5 at scale tiny\n")
    assert "| gatera (reference) | 2 |" in done.stdout
    assert "5 trials (frozen is one)" in done.stderr
    assert "5 of 5 trials done" in done.stderr
    written = {path.name for path in (folder / "reports").iterdir() if path.is_file()}
    (stem,) = {name.removesuffix(".md") for name in written if name.endswith(".md")}
    endings = (".csv", ".trials.csv", ".html", ".md", ".tex", ".tasks.tex")
    assert written == {f"{stem}{ending}" for ending in endings}
    figures = sorted(p.name.split(".")[-2] for p in (folder / "reports" / "figures").iterdir())
    assert figures == ["accuracy", "cost", "differences", "gates", "learning_curves"]


def test_every_prediction_is_kept(finished):
    folder, _, _ = finished
    for path in (folder / "gatera-store").glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        attempt = path.parent / "attempts" / str(result["attempt"])
        frame = pd.read_parquet(attempt / "predictions.parquet")
        texts = ["task", "index", "cluster", "output", "extracted", "answer"]
        assert list(frame.columns) == [*texts, "correct", "score", "log_probability"]
        assert len(frame) == 2 * len(result["config"]["data"]["tasks"])
        by_task = frame.groupby("task")["correct"].mean()
        for task, accuracy in by_task.items():
            assert result["metrics"][f"test/accuracy/{task}"] == accuracy


def test_a_repetition_trains_nothing_and_gives_the_same_report(finished):
    folder, arguments, first = finished
    before = {p: p.stat().st_mtime_ns for p in folder.glob("gatera-store/trials/**/*")}
    again = run(*arguments, cwd=folder, check=0)
    assert again.stdout == first.stdout
    assert {p: p.stat().st_mtime_ns for p in folder.glob("gatera-store/trials/**/*")} == before


def test_mlflow_and_optuna_hold_every_trial(finished):
    folder, _, _ = finished
    from mlflow.tracking import MlflowClient

    store = folder / "gatera-store"
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ablation_table5")
    runs = client.search_runs([experiment.experiment_id])
    children = [r for r in runs if "gatera.key" in r.data.tags]
    assert {r.data.tags["gatera.key"] for r in children} == set(results_of(store))
    trained = next(r for r in children if r.data.tags["gatera.variant"] == "gatera")
    assert {"train/loss", "train/entropy", "gate/mean"} <= trained.data.metrics.keys()
    artifacts = {item.path for item in client.list_artifacts(trained.info.run_id)}
    assert artifacts == {"predictions.parquet"}
    parent = next(r for r in runs if "gatera.key" not in r.data.tags)
    assert "gatera/accuracy/world_truth" in parent.data.metrics
    assert parent.data.params["train.max_steps"] == "2"
    assert client.list_artifacts(parent.info.run_id, "report")
    journal = (store / "optuna.journal").read_text()
    assert all(key in journal for key in results_of(store))


def test_an_exported_adapter_and_the_one_that_mlflow_names_are_one(finished, tmp_path, monkeypatch):
    folder, arguments, _ = finished
    target = tmp_path / "adapter"
    command = [sys.executable, "-m", "gatera.studies", "export", arguments[0], "gatera", "1"]
    command += [*arguments[1:], "--out", str(target)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'gatera-store' / 'mlflow.db'}")
    import mlflow
    import torch

    import gatera
    from gatera import backbones

    assert gatera.GateraConfig  # touching the name registers the method
    from peft import PeftModel

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(arguments[0])
    query = "tags.`gatera.variant` = 'gatera' AND tags.`gatera.seed` = '1'"
    (logged,) = client.search_logged_models([experiment.experiment_id], query)
    named = mlflow.artifacts.download_artifacts(logged.model_uri)
    tokens = torch.arange(3, 13)[None]
    logits = []
    for adapter in (target, named):
        model = PeftModel.from_pretrained(backbones.load("tiny").model, adapter)
        with torch.no_grad():
            logits.append(model(tokens).logits)
            with model.disable_adapter():
                untrained = model(tokens).logits
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], untrained)
    assert model.peft_config["default"].gate == "token"


def test_status_and_report_read_the_same_store(finished):
    folder, arguments, first = finished
    base = [sys.executable, "-m", "gatera.studies"]
    options = {"cwd": folder, "capture_output": True, "text": True, "check": True}
    status = subprocess.run([*base, "status", *arguments, "--json"], **options)
    counts = json.loads(status.stdout)["counts"]
    assert (counts["planned"], counts["done"]) == (5, 5)
    report = subprocess.run([*base, "report", *arguments], **options)
    assert report.stdout == first.stdout
    rows = json.loads(subprocess.run([*base, "report", *arguments, "--json"], **options).stdout)[
        "rows"
    ]
    assert [row["variant"] for row in rows] == ["frozen", "hira", "gatera"]


def test_what_is_killed_goes_on_and_ends_the_same(finished, tmp_path):
    folder, arguments, first = finished
    process = subprocess.Popen(
        [*RUN, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    trials = tmp_path / "gatera-store" / "trials"
    deadline = time.monotonic() + 300
    while not list(trials.glob("*/attempts/1/checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = noted(tmp_path / "gatera-store")
    process.kill()
    process.wait()
    for worker in workers:
        os.kill(int(worker.split("/")[1]), signal.SIGKILL)
    again = run(*arguments, cwd=tmp_path, check=0)
    assert results_of(tmp_path / "gatera-store") == results_of(folder / "gatera-store")

    def table(text):
        """Return the lines of the compact table, which has nothing that a clock decides."""
        head = text.partition("## Scores by task")[0]
        return [line for line in head.splitlines() if line.startswith("| ")]

    assert len(table(first.stdout)) > 3
    assert table(again.stdout) == table(first.stdout)


def test_an_interrupted_run_keeps_everything_and_says_so(tmp_path):
    process = subprocess.Popen(
        [*RUN, "ablation_table5", "--seeds", "1", "--variants", "hira"],
        cwd=tmp_path,
        # A shell's background job ignores SIGINT, and would hand that down to this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    store = tmp_path / "gatera-store"
    deadline = time.monotonic() + 300
    while not list(store.glob("trials/*/claim.1")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; everything finished is kept" in said
    assert "Traceback" not in said
    for worker in noted(store):
        assert not Path(f"/proc/{worker.split('/')[1]}").exists()


def test_a_failing_variant_leaves_the_others_and_exits_3(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from gatera.studies import Study, Variant\n"
        "STUDY = Study(\n"
        "    variants=(Variant('good'), Variant('hot', {'train.learning_rate': 1e30})),\n"
        "    reference='good', seeds=(0,),\n"
        "    defaults={'train.max_steps': 4, 'eval.limit': 2, 'train.gradient_clip': None},\n"
        ")\n"
    )
    done = run("mine.py", cwd=tmp_path, check=3)
    assert "failed (not_finite, attempt 2)" in done.stderr
    assert "| good (reference) | 1 |" in done.stdout
    assert "| hot | 0/1 | — |" in done.stdout
    assert "hot, seed 0: failed" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_second_supervisor_is_told_who_holds_the_store(finished):
    folder, arguments, _ = finished
    from gatera.studies.running.supervisor import supervising
    from gatera.studies.store.store import Store

    with supervising(Store(folder / "gatera-store")):
        done = run(*arguments, cwd=folder, check=2)
    assert f"is held by process {os.getpid()} on" in done.stderr
