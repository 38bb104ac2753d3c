"""Studies from Python: the same numbers as the command line's, as DataFrames."""

import json
import math
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import threading

import pandas as pd
import pytest

import gatera.studies as gs
from gatera import cli
from gatera.errors import InputError
from gatera.reports.write import write_report
from gatera.studies import Study, Variant

SHORT = {
    "train.max_steps": 2,
    "train.validation_every": 1,
    "train.validation_items": 4,
    "train.batch_size": 4,
    "eval.limit": 3,
}
SCRIPT = """
import gatera.studies as gs

report = gs.run(
    "ablation_table5", seeds=2, variants=["hira", "gatera"], set={short}, tracking_uri="none"
)
report.table.to_csv("table.csv", index=False)
print(report.files[1])
print(repr(report))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which a plain script, without a guard for spawned processes, ran a study."""
    made = tmp_path_factory.mktemp("script")
    (made / "script.py").write_text(SCRIPT.replace("{short}", repr(SHORT)))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=made, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (made / "printed").write_text(done.stdout)
    (made / "said").write_text(done.stderr)
    return made


@pytest.fixture
def report(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return gs.load("ablation_table5", seeds=2, variants=["hira", "gatera"], set=SHORT)


def test_a_script_gets_the_numbers_of_the_csv(folder):
    path, title, *said = (folder / "printed").read_text().splitlines()
    stated = pd.read_csv(folder / path)
    table = pd.read_csv(folder / "table.csv")
    assert list(table["variant"]) == ["frozen", "hira", "gatera"]
    common = [name for name in table if name in stated]
    pd.testing.assert_frame_equal(table[common], stated[common], check_exact=True)
    assert title == "ablation_table5 at scale tiny"
    assert said[0].startswith("- ")


def test_a_run_says_what_it_will_do_and_at_its_end_the_answer(folder, report):
    first, where, watch, *_, last = (folder / "said").read_text().splitlines()
    plan = report.record.plan_id
    assert first.startswith(f"{plan}: 3 rows x 2 seeds, 5 trials (frozen is one), on ")
    assert first.endswith("; how long is not known before one has finished")
    assert where == "store: gatera-store; report: in reports/"
    command = watch.removeprefix("watch: python -m gatera.studies ")
    assert json.loads(status_of(command, folder))["counts"]["done"] == 5
    figures = "differences.png,accuracy.png,cost.png,learning_curves.png,gates.png"
    assert last == f"also: reports/figures/{plan}.{{{figures}}}"
    answer = [f"- {sentence}\n" for sentence in report.findings[:3]]
    said = (folder / "said").read_text()
    files = [f"report: reports/{plan}.md\n", f"page: reports/{plan}.html\n"]
    assert "".join([*answer, *files]) in said
    assert "MLflow" not in said  # which this run was told to do without


def status_of(command, folder):
    words = [word for word in shlex.split(command) if word != "--watch"]
    done = subprocess.run(
        [sys.executable, "-m", "gatera.studies", *words, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def call(folder):
    """What a spawned process does: it asks for what is there already, and for one trial more."""
    os.chdir(folder)
    report = gs.run("ablation_table5", seeds=3, variants=["gatera"], set=SHORT, tracking_uri="none")
    report.table.to_csv("spawned.csv", index=False)
    shutil.copy(report.files[1], "spawned.stated.csv")


def test_a_spawned_process_runs_a_study(folder):
    # A daemon may start no process by `multiprocessing`.
    child = multiprocessing.get_context("spawn").Process(target=call, args=[folder], daemon=True)
    child.start()
    child.join(300)
    assert child.exitcode == 0
    table = pd.read_csv(folder / "spawned.csv")
    assert list(table["seeds"]) == [1, 3]
    stated = pd.read_csv(folder / "spawned.stated.csv")
    common = [name for name in table if name in stated]
    assert {"variant", "average", "average_sd"} <= set(common)
    pd.testing.assert_frame_equal(table[common], stated[common], check_exact=True)


def test_a_thread_runs_a_study(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = []
    asked = {"seeds": 2, "variants": ["hira", "gatera"], "set": SHORT, "tracking_uri": "none"}
    thread = threading.Thread(target=lambda: found.append(gs.run("ablation_table5", **asked)))
    thread.start()
    thread.join(300)
    assert len(found[0].trials) == 5


def test_what_is_stored_is_loaded_again(folder, report):
    table = pd.read_csv(folder / "table.csv")
    pd.testing.assert_frame_equal(report.table, table, check_dtype=False)
    assert report.findings
    trials = report.trials
    assert len(trials) == 5
    assert set(trials["state"]) == {"done"}
    assert trials["test/accuracy"].between(0, 1).all()
    of_hira = trials[trials["variant"] == "hira"]["test/accuracy"]
    assert of_hira.mean() == pytest.approx(table.set_index("variant").loc["hira", "average"])


def test_predictions_and_gates_are_frames(report):
    answers = report.predictions
    assert len(answers) == 5 * 3 * len(report.record.tasks)
    scores = answers[answers["variant"] == "gatera"].groupby(["seed", "task"])["score"].mean()
    trial = report.trials[report.trials["variant"] == "gatera"].iloc[0]
    task = report.record.tasks[0]
    assert scores[trial["seed"], task] == pytest.approx(trial[f"test/accuracy/{task}"])
    gates = report.gates
    assert set(gates["variant"]) == {"gatera"}
    assert gates["mean"].between(0, 1).all()
    assert gates["entropy_nats"].between(0, math.log(2)).all()
    assert answers["log_probability_nats"].max() <= 0
    assert gates["module"].nunique() == len(gates) / 2  # two seeds


def test_a_notebook_shows_findings_table_and_differences(report):
    shown = report._repr_html_()
    for sentence in report.findings:
        assert sentence.partition("`")[0] in shown
    assert shown.count("<tr>") == 4
    assert "data:image/png;base64," in shown
    assert "<script" not in shown


def test_a_report_is_written_where_one_asks(report, tmp_path):
    written = report.write(tmp_path, measured=False)
    assert written.files[0].read_text() == written.markdown
    assert tmp_path / f"{report.record.plan_id}.html" in written.files
    alone = write_report(report.record, tmp_path / "alone", measured=False)  # without a page
    said, said_alone = (each.markdown.partition("## Findings") for each in (written, alone))
    assert said[2] == said_alone[2]
    assert report.markdown.startswith("# ablation_table5 at scale tiny")


def test_a_second_run_finds_everything_done(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.glob("gatera-store/trials/*/attempts/*"))
    again = gs.run(
        "ablation_table5",
        seeds=2,
        variants=("hira", "gatera"),
        set=[f"{name}={value}" for name, value in SHORT.items()],  # as on the command line
        tracking_uri="none",
    )
    assert sorted(folder.glob("gatera-store/trials/*/attempts/*")) == before
    assert again.failed == ()


def test_a_plan_says_what_the_command_says(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    asked = {"seeds": 2, "variants": ["hira", "gatera"], "set": SHORT}
    found = gs.plan("ablation_table5", **asked)
    options = ["--seeds", "2", "--variants", "hira,gatera"]
    options += [word for n, v in SHORT.items() for word in ("--set", f"{n}={v}")]
    assert cli.main(["plan", "ablation_table5", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.answer))
    assert cli.main(["plan", "ablation_table5", *options]) == 0
    assert capsys.readouterr().out == f"{found!r}\n"
    assert list(found.trials["state"]) == ["done"] * 5
    assert list(found.rows["variant"]) == ["frozen", "hira", "gatera"]


STATED = Study(
    title="Does the gate pay?",
    variants=(Variant("hira", changes={"adapter.gate": "none"}), Variant("gatera")),
    reference="gatera",
    seeds=(0, 1),
)


def test_a_study_that_was_made_in_python_is_planned_like_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = gs.plan(STATED)
    assert found.answer["study"] == "does_the_gate_pay"
    assert len(found.trials) == 5
    assert gs.plan(STATED, name="mine").answer["study"] == "mine"
    with pytest.raises(InputError, match="name"):
        gs.plan(STATED, name="../mine")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"set": {"train.stps": 3}}, "no setting 'train.stps'"),
        ({"set": {"train.max_steps": "many"}}, "train.max_steps"),
        ({"variants": ["hyra"]}, "no variant 'hyra'"),
        ({"scale": "huge"}, "huge"),
    ],
)
def test_what_cannot_be_understood_is_one_message(asked, said):
    with pytest.raises(InputError, match=said):
        gs.plan("ablation_table5", **asked)


def test_importing_the_studies_is_light():
    code = (
        "import gatera.studies as gs, sys; print({'torch', 'pandas', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert set(gs.__all__) >= {"run", "plan", "load", "Study", "Variant"}
    assert all(callable(getattr(gs, name)) for name in gs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        getattr(gs, "rnu")  # noqa: B009


def test_gates_are_read_token_by_token(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    asked = {"seeds": 2, "variants": ["hira", "gatera"], "set": SHORT}
    found = gs.gates("ablation_table5", seed=1, prompt="is it ?", report_dir=tmp_path, **asked)
    assert [path.suffix for path in found.files] == [".html", ".md", ".png", ".png"]
    assert all(path.exists() for path in found.files)
    tokens = found.tokens
    assert set(tokens["variant"]) == {"gatera"}
    assert set(tokens["task"]) == {"", *gs.load("ablation_table5", **asked).record.tasks}
    modules = list(found.map["name"])
    assert tokens[modules].stack().between(0, 1).all()
    of_items = tokens[tokens["task"] != ""]
    whole = of_items.groupby(["task", "index"])[modules].mean().mean()
    assert found.map.set_index("name")["mean"].to_dict() == pytest.approx(whole.to_dict(), abs=1e-5)
    assert found.effects["layer"].isna().sum() == 1
    assert found.findings[0].startswith("`gatera`: gates are")
    assert len(found.near_zero) == 1


def test_the_gates_command_prints_what_it_found(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(folder)
    named = ["gates", "ablation_table5", "--seeds", "2", "--variants", "hira,gatera"]
    named += [part for name, value in SHORT.items() for part in ("--set", f"{name}={value}")]
    assert cli.main([*named, "--variant", "gatera", "--report-dir", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["effects"][0]["variant"] == "gatera"
    assert len(answer["files"]) == 4
    assert cli.main([*named, "--variant", "hira", "--report-dir", str(tmp_path)]) == 2
    assert "hira of ablation_table5.tiny" in capsys.readouterr().err
