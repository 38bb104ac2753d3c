"""What makes stored results current, stale or unfit to stand together."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from made_up import commit_result

import gatera
from gatera import cli
from gatera.studies.catalog import load
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.store import Store
from gatera.tasks import prompts
from gatera.training.provenance import machine


def test_editing_a_prompt_template_makes_new_keys(study, plan, monkeypatch):
    name = plan.trials[0].config["data"]["template"]
    template = prompts.TEMPLATES[name]
    edited = dataclasses.replace(template, without_input=template.without_input + " ")
    monkeypatch.setitem(prompts.TEMPLATES, name, edited)
    again = make_plan(study, Request())
    assert {t.key for t in again.trials}.isdisjoint(t.key for t in plan.trials)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the package, whose code can be edited; returns a function that hashes it."""
    package = tmp_path / "checkout" / "gatera"
    source = Path(gatera.__file__).parent
    for name in ("adapter", "backbones", "tasks", "training", "reports"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(source / name, package / name, ignore=ignored)
    shutil.copy(source / "trial.py", package)
    (package.parent / "README.md").write_text("before")
    monkeypatch.setattr(machine, "_PACKAGE", package)
    return package


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """A folder with a store of a shipped study, filled by two versions of torch."""
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load("ablation_table5"), Request())
    store = Store(tmp_path / "gatera-store", create=True)
    store.write_plan(plan)
    for trial in plan.trials:
        torch = "2.12.0" if (trial.variant, trial.seed) == ("hira", 3) else "2.13.0"
        commit_result(store, trial, 0.5, versions={"torch": torch})
    return tmp_path


def test_a_store_with_two_torch_versions_is_refused(reported, capsys):
    assert cli.main(["report", "ablation_table5"]) == 2
    said = capsys.readouterr().err
    assert "versions of scoring — {'torch': '2.13.0'}: frozen/seed0" in said
    assert "| {'torch': '2.12.0'}: hira/seed3." in said
    assert not (reported / "reports").exists()
    assert cli.main(["report", "ablation_table5", "--allow-mixed"]) == 0
    text = (reported / "reports" / "ablation_table5.tiny.md").read_text()
    assert "- the rows were not made alike (versions of training): " in text
    assert "versions: torch 2.13.0, torch 2.12.0" in text


def test_stale_results_are_left_out_and_named(reported, monkeypatch, capsys):
    monkeypatch.setattr(
        "gatera.studies.store.staleness.scoring_code", lambda config: {"a.py": "new"}
    )
    assert cli.main(["report", "ablation_table5", "--json"]) == 3
    assert "21 results come from other code than today's" in capsys.readouterr().err
    text = (reported / "reports" / "ablation_table5.tiny.md").read_text()
    assert "50.00" not in text
    assert "- hira, seed 3: its result comes from other code than today's" in text
