"""Short forms of the benchmarks, with trials that only pretend."""

import json
import os
import shutil
import sys
from pathlib import Path

import kill_storm
import overhead
from views import differences_to_rebuilt

from gatera.studies.store.store import Store


def test_nothing_is_lost_in_a_kill_storm(plan, tmp_path, database, monkeypatch):
    monkeypatch.setenv("MADE_UP", json.dumps({"steps": 20, "pause": 0.2, "checkpoint_every": 4}))
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for name in ("alone", "storm"):
        store = Store(tmp_path / name / "store", create=True)
        store.write_plan(plan)
        shutil.copy(database, store.folder / "mlflow.db")

    def command(folder):
        return [sys.executable, "-m", "made_up_work", "run", str(folder / "store"), "local"]

    kill_storm.run_alone(command, tmp_path / "alone")
    storm = kill_storm.Storm(command, kills=14, in_training=7, mean_gap=0.5, seed=2)
    record = kill_storm.run_in_storm(storm, tmp_path / "storm")
    assert kill_storm.differences(tmp_path / "alone", tmp_path / "storm") == []
    assert kill_storm.run_counts(tmp_path / "storm" / "store") == (10, 10, 10)
    assert differences_to_rebuilt(tmp_path / "storm" / "store", tmp_path) == []
    redone = kill_storm.steps_redone(tmp_path / "storm" / "store")
    assert redone
    assert max(redone) <= 4
    assert record.in_training >= 7
    assert sum(record.victims.values()) == 14


def test_the_storm_notices_what_differs(plan, tmp_path):
    from made_up import commit_result

    for name, score in (("alone", 0.5), ("storm", 0.75)):
        store = Store(tmp_path / name / "store", create=True)
        commit_result(store, plan.trials[0], 0.5)
        commit_result(store, plan.trials[1], score)
        reports = tmp_path / name / "reports"
        reports.mkdir()
        (reports / "a.md").write_text(f"{score}")
    commit_result(store, plan.trials[2], 0.5)
    assert kill_storm.differences(tmp_path / "alone", tmp_path / "storm") == [
        f"trial {plan.trials[2].key} is in one store only",
        f"the results of {plan.trials[1].key} differ",
        f"the predictions of {plan.trials[1].key} differ",
        "the reports differ",
    ]


def test_idle_trials_on_a_fresh_store_are_done_once(tmp_path):
    measured = overhead.measure(40, 4, tmp_path, preload="pyarrow.parquet")
    assert overhead.holds(measured), measured
    assert measured.seconds_a_trial < 2  # a tenth of it on an idle machine; others test here too


def test_each_part_of_the_overheads_report_leaves_the_other_alone(tmp_path):
    figures = {name: 1234.5678 for name, _, _ in overhead._GROWTH}
    figures["seconds_of_the_last"] = 1.5 * figures["seconds_of_the_first"]
    before = {"commit": "abc1234", **figures, "seconds_a_trial": 4321.0, "status_seconds": 7.0}
    del before["plan_mib"]
    path = tmp_path / "overhead.md"
    path.write_text("# Overhead of a trial\n\nstores\n")
    for load in ("busy", "idle"):
        overhead._write_part(path, overhead._growth_report(figures, before, load))
    text = path.read_text()
    assert text.startswith("# Overhead of a trial\n\nstores\n\n## One large study\n")
    assert text.count("## One large study") == 1
    assert "idle at the start" in text
    assert "busy" not in text
    assert "**A trial costs 1234.57 s among 1,235, the last 1,235 of them 1.50 times what" in text
    assert "; before, 4321.00 s among 1,235, the last 1,235 of them 1.50 times" in text
    assert "| measured | before (abc1234) | here |" in text
    assert "| seconds a trial, in the last part | 1851.852 | 1851.852 |" in text
    assert "| seconds of `status` (the best of three) | 7.00 | 1234.57 |" in text
    assert "| plan file, MiB | — | 1234.6 |" in text
    overhead._write_part(path, "# Overhead of a trial\n\nothers\n")
    assert path.read_text() == text.replace("stores", "others")
