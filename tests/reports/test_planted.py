"""A synthetic store with known truth: what is planted is found, and what is not, is not."""

import dataclasses

import numpy as np
import pytest
from made_up import commit_result

from gatera.reports.tables import build_table
from gatera.reports.write import write_report
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.store import Store

ITEMS, SEEDS = 60, 10
TRUTH = {"frozen": -2.0, "hira": 0.0, "static_gate": -1.2, "gatera": 0.0}  # logits of being right


def fill(folder, study, *, seed, truth=TRUTH):
    """Return a table of answers drawn with effects of items, of seeds and of variants by seed.

    Seeds and items are shared among variants, as in a real study, and each trained run has an
    effect of its own.
    """
    generator = np.random.default_rng(seed)
    seeds = dataclasses.replace(study.study, seeds=tuple(range(SEEDS)))
    plan = make_plan(dataclasses.replace(study, study=seeds), Request())
    store = Store(folder, create=True)
    difficulty = {task: generator.normal(0, 1, ITEMS) for task in plan.tasks}
    ease = generator.normal(0, 0.3, SEEDS)
    for trial in plan.trials:
        level = truth[trial.variant] + ease[trial.seed] + generator.normal(0, 0.15)
        answers = {}
        for task in plan.tasks:
            chance = 1 / (1 + np.exp(-level - difficulty[task]))
            answers[task] = (generator.random(ITEMS) < chance).tolist()
        commit_result(store, trial, 0.0, answers=answers)
    return gather(store, plan)


@pytest.fixture(scope="module")
def study_of_ten(tmp_path_factory):
    from pathlib import Path

    from gatera.studies import Study, Variant
    from gatera.studies.catalog import LoadedStudy

    variants = (
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("static_gate", changes={"adapter.gate": "static"}),
        Variant("gatera"),
    )
    return LoadedStudy("planted", Study(variants, "gatera"), Path("planted.py"), "s" * 64)


def test_the_planted_effect_is_resolved_and_the_planted_null_is_not(study_of_ten, tmp_path):
    record = fill(tmp_path / "store", study_of_ten, seed=11)
    table = build_table(record)
    static, hira = table.row("static_gate").comparison, table.row("hira").comparison
    assert static.verdict == "resolved"
    assert static.difference.high < 0
    assert static.crossed.high < 0
    assert static.crossed.items == 8 * ITEMS
    assert hira.verdict == "not resolved"
    assert hira.difference.low < 0 < hira.difference.high
    assert hira.crossed.low < 0 < hira.crossed.high
    written = write_report(record, tmp_path / "reports")
    differences = written.markdown.partition("## Differences")[2]
    line = next(line for line in differences.splitlines() if line.startswith("| static_gate"))
    assert f"[{100 * static.crossed.low:+.2f}, {100 * static.crossed.high:+.2f}]" in line
    row = next(row for row in written.rows if row["variant"] == "static_gate")
    assert row["difference"]["bootstrap_high"] == static.crossed.high


def test_answers_and_scores_agree(study_of_ten, tmp_path):
    table = build_table(fill(tmp_path / "store", study_of_ten, seed=12))
    comparison = table.row("static_gate").comparison
    assert comparison.crossed.mean == pytest.approx(comparison.difference.mean)
