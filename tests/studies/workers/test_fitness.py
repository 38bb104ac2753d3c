"""What a worker needs of its machine, asked before it claims a trial."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import commit_result

from gatera import cli
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.snapshot import take_snapshot
from gatera.training.provenance.machine import Machine

BOOLQ = Path("commonsense", "boolq", "test.json")

# The command line, with trials that only pretend and note where their data lie.
PRETENDING = """
import functools, os, sys
from gatera.studies.workers import worker
import made_up_work
from gatera import cli

def score(trial, attempt_dir, **options):
    (attempt_dir / "data_root").write_text(os.environ.get("GATERA_DATA_ROOT", ""))
    return made_up_work.score(trial, attempt_dir, **options)

if __name__ == "__main__":
    given = {"runs": "pretending", "preload": ("pretending",)}
    worker.work = functools.partial(worker.work, **given)
    sys.exit(cli.main(sys.argv[1:]))

train = made_up_work.train
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data root with a benchmark's file, which the environment does not name."""
    monkeypatch.delenv("GATERA_DATA_ROOT", raising=False)
    write_boolq(tmp_path / "data", "is it?")
    return tmp_path / "data"


def write_boolq(root, question):
    answer = {"input": "", "output": "the correct answer is true", "answer": "true"}
    (root / BOOLQ).parent.mkdir(parents=True)
    (root / BOOLQ).write_text(json.dumps([{"instruction": question, **answer}]))


@pytest.fixture
def planned(store, study, data):
    """The plan of a study that is scored on that benchmark, in the store."""
    plan = make_plan(study, Request(seeds=1, tasks=("boolq",), data_root=data))
    store.write_plan(plan)
    return plan


def pretend(folder, *arguments):
    """Run the command line in a process of its own."""
    (folder / "pretending.py").write_text(PRETENDING)
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    return subprocess.run(
        [sys.executable, "pretending.py", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def assert_untouched(store, trials):
    for trial in trials:
        assert store.claims.attempts(trial.key) == []
        assert not store.attempt_folder(trial.key, 1).exists()
        assert not store.has_failed(trial.key, 1)


def test_the_data_root_of_a_worker_reaches_its_trials(store, planned, data, tmp_path):
    done = pretend(tmp_path, "work", str(store.folder), "--data-root", data.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert take_snapshot(store, planned).counts["done"] == len(planned.trials)
    for trial in planned.trials:
        assert (store.attempt_folder(trial.key, 1) / "data_root").read_text() == str(data)


def test_a_worker_without_the_data_names_the_path_and_claims_nothing(
    store, planned, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("GATERA_DATA_ROOT", "")
    (tmp_path / "elsewhere").mkdir()
    write_boolq(tmp_path / "changed", "is it not?")
    command = ["work", str(store.folder), "--data-root"]
    for name, said in (
        ("elsewhere", f"looked for at {tmp_path / 'elsewhere' / BOOLQ}, which does not exist"),
        ("changed", "the test data of boolq is another here than the trials were planned with"),
        ("nowhere", f"the data root {tmp_path / 'nowhere'} "),
    ):
        assert cli.main([*command, str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("gatera: ")
        assert said in line
    assert_untouched(store, planned.trials)


def test_a_worker_with_other_libraries_claims_nothing_unless_it_may_mix(
    store, plan, tmp_path, capsys
):
    store.write_plan(plan)
    here = Machine.here()
    first, *others = plan.trials
    commit_result(store, first, 0.5, versions={**here.versions, "torch": "2.0.0"})
    assert cli.main(["work", str(store.folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "this machine is not like the one that ran frozen, seed 0" in line
    assert f"torch 2.0.0 → {here.versions['torch']}. Results of unlike machines" in line
    assert_untouched(store, others)
    mixed = pretend(tmp_path, "work", str(store.folder), "--allow-mixed")
    assert (mixed.returncode, mixed.stderr) == (0, "")
    assert take_snapshot(store, plan).counts["done"] == len(plan.trials)


def test_a_worker_on_another_processor_claims_nothing(store, plan, capsys):
    store.write_plan(plan)
    first, *others = plan.trials
    other = dataclasses.replace(Machine.here(), processor="another one")
    commit_result(store, first, 0.5, processor=other.processor)
    assert cli.main(["work", str(store.folder)]) == 2
    assert "processor another one → " in capsys.readouterr().err
    assert_untouched(store, others)
