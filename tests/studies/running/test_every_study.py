"""Every shipped study, for real: two rows, two steps, a few items, and its report."""

import dataclasses
import json
import subprocess
import sys

import pytest

from gatera import cli
from gatera.reports.write import write_report
from gatera.studies.catalog import entries, load
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.store.store import Store

NAMES = [entry.name for entry in entries()]
SMALL = {
    "train.max_steps": 2,
    "train.validation_every": 1,
    "train.validation_items": 4,
    "train.batch_size": 4,
    "eval.limit": 3,
}
TUNING = {"tuning.trials": 1, "tuning.seeds": 1, "tuning.round_size": 1}


def rows_of(name):
    """Return the names of two rows: the reference, and the last beside it."""
    study = load(name).study
    return (
        [row.name for row in study.variants if row.name != study.reference][-1],
        study.reference,
    )


def small_plan(name):
    """Return the plan of two rows of a study, without its tuning phase."""
    loaded = load(name)
    untuned = dataclasses.replace(loaded, study=dataclasses.replace(loaded.study, tuning=None))
    return make_plan(untuned, Request(seeds=1, variants=rows_of(name), overrides=SMALL))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A store in which one worker ran them all."""
    store = Store(tmp_path_factory.mktemp("every") / "store", create=True)
    for name in NAMES:
        store.write_plan(small_plan(name))
    command = [sys.executable, "-m", "gatera.studies", "work", str(store.folder)]
    subprocess.run(command, check=True)
    return store


@pytest.mark.parametrize("name", NAMES)
def test_a_study_runs_and_reports(name, done, tmp_path):
    plan = small_plan(name)
    rows = write_report(gather(done, plan), tmp_path).rows
    assert [row["variant"] for row in rows] == ["frozen", *plan.changes][-3:]
    for row in rows:
        assert row["seeds"] == 1
        assert row["average"] is not None
        assert None not in row["scores"].values()
    assert (tmp_path / f"{plan.id}.md").read_text().startswith(f"# {name} at scale tiny")
    whole = make_plan(load(name), Request(seeds=1))
    assert len(whole.trials) == len(load(name).study.variants) + 1


def test_trials_that_studies_share_ran_once(done):
    plans = [done.plan(plan_id) for plan_id in done.plan_ids()]
    keys = [trial.key for plan in plans for trial in plan.trials]
    assert len(set(keys)) < len(keys)
    for plan in plans:
        assert take_snapshot(done, plan).counts["waiting"] == 0
    assert all(done.claims.newest(key) == 1 for key in keys)


def test_a_tuned_study_runs_by_its_command(tmp_path, capsys):
    options = ["--seeds", "1", "--variants", ",".join(rows_of("tuned_table5"))]
    for field, value in (SMALL | TUNING).items():
        options += ["--set", f"{field}={value}"]
    options += ["--store", str(tmp_path / "store"), "--report-dir", str(tmp_path)]
    assert cli.main(["run", "tuned_table5", *options, "--tracking-uri", "none"]) == 0
    assert "| gatera (reference) | 1 |" in capsys.readouterr().out
    assert cli.main(["report", "tuned_table5", *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["tuning"]["trials"] for row in rows if row["tuning"]] == [1, 1]
