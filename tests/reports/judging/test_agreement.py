import dataclasses

import pytest
from made_up import commit_result

from gatera.reports.forms.markdown import markdown
from gatera.reports.forms.values import json_rows, order_values
from gatera.reports.published import published_table
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.configuration import scale_defaults

TINY_TASKS = tuple(scale_defaults("tiny")["data"]["tasks"])

# Averages by seed. Published: hira 86.72, static_gate 86.97, gatera 87.53.
SCORES = {
    "hira": [0.865, 0.868, 0.860],
    "static_gate": [0.80, 0.801, 0.799],
    "gatera": [0.875, 0.874, 0.871],
}


@pytest.fixture
def record(store, plan):
    for variant, scores in SCORES.items():
        for trial, score in zip(plan.trials_of(variant), scores, strict=True):
            commit_result(store, trial, score)
    return dataclasses.replace(gather(store, plan), published="gatera_table5")


@pytest.fixture
def eight_tasks(monkeypatch):
    """Let the made-up study's tasks be those of the published averages."""
    published = dataclasses.replace(published_table("gatera_table5"), tasks=TINY_TASKS)
    other = dataclasses.replace(published_table("gatera_table5", "llama-2-7b"), tasks=TINY_TASKS)
    monkeypatch.setattr(
        "gatera.reports.tables.published_table",
        lambda name, backbone: other if backbone == "llama-2-7b" else published,
    )


def at_paper_scale(record, backbone="llama-3-8b", **fields):
    return build_table(dataclasses.replace(record, scale="paper", backbone=backbone, **fields))


def line_of(text, variant):
    section = text.partition("## Against the paper")[2]
    line = next(line for line in section.splitlines() if line.startswith(f"| {variant} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.usefixtures("eight_tasks")
def test_each_row_stands_beside_its_published_number(record):
    table = at_paper_scale(record)
    rows = {row.variant: row for row in table.paper.rows}
    hira = rows["hira"]
    assert hira.published == pytest.approx(0.8672)
    assert hira.measured == pytest.approx(0.8643, abs=1e-4)
    assert hira.difference == pytest.approx(-0.0029, abs=1e-4)
    assert hira.step == pytest.approx(-0.0081)
    assert hira.measured_step == pytest.approx(-0.009)
    assert (hira.step_inside, hira.verdict) == (True, "agrees")
    static = rows["static_gate"]
    assert static.step == pytest.approx(-0.0056)
    assert (static.step_inside, static.verdict) == (False, "disagrees")
    assert (rows["gatera"].step, rows["gatera"].verdict) == (None, None)
    assert "frozen" not in rows


@pytest.mark.usefixtures("eight_tasks")
def test_the_report_prints_the_comparison(record):
    text = markdown(at_paper_scale(record))
    assert line_of(text, "hira")[1:5] == ["86.72", "86.43", "-0.29", "-0.81"]
    assert line_of(text, "hira")[6:9] == ["yes", "agrees", "0.7002 %"]
    assert line_of(text, "static_gate")[6:8] == ["no", "disagrees"]
    assert "GateRA (arXiv:2511.17582), Table 5, measured on LLaMA-3-8B." in text
    # hira and static_gate stand in the other order than published: one of three pairs disagrees.
    # No order of two of them is certain at three seeds but that of static_gate and the others.
    assert "Order of the 3 rows that have both numbers: Kendall's tau +0.33 [-0.33, +0.33]" in text
    assert order_values(at_paper_scale(record)) == {
        "tau": pytest.approx(1 / 3),
        "low": pytest.approx(-1 / 3),
        "high": pytest.approx(1 / 3),
        "rows": 3,
        "seeds": 3,
    }
    assert "No verdicts" not in text


@pytest.mark.usefixtures("eight_tasks")
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scale": "tiny"}, "these rows were not trained at scale paper on LLaMA-3-8B"),
        ({"backbone": "hub:other/model"}, "these rows were not trained at scale paper on LLaMA"),
        (
            {"departures": {"set": {"adapter.r": 4, "train.max_steps": 1}}},
            "this run changes the paper's protocol (adapter.r, train.max_steps)",
        ),
        ({"tasks": ("world_kin",)}, "the published averages are over other tasks: world_truth, "),
    ],
)
def test_there_is_no_verdict_elsewhere(record, fields, said):
    record = dataclasses.replace(record, scale="paper", backbone="llama-3-8b")
    text = markdown(build_table(dataclasses.replace(record, **fields)))
    cells = line_of(text, "static_gate")
    assert cells[3] == "-6.97"  # arithmetic, which the text beneath says
    assert cells[6:8] == ["no", "—"]
    assert f"No verdicts: {said}" in text
    assert "arithmetic then, and no evidence" in text


@pytest.mark.usefixtures("eight_tasks")
@pytest.mark.parametrize(
    "departures", [{"seeds": 3}, {"set": {"backbone.name": "llama-3-8b"}}, {"variants": ["hira"]}]
)
def test_more_seeds_or_fewer_rows_are_still_the_papers_protocol(record, departures):
    table = at_paper_scale(record, departures=departures)
    assert table.paper.incomparable is None


@pytest.mark.usefixtures("eight_tasks")
def test_unknown_published_numbers_are_dashes(record):
    table = at_paper_scale(record, "llama-2-7b")
    assert table.published.model == "LLaMA-2-7B"
    text = markdown(table)
    assert line_of(text, "static_gate")[1] == "—"
    assert line_of(text, "static_gate")[4] == "—"
    assert line_of(text, "hira")[4] == "-1.10"
    values = {row["variant"]: row for row in json_rows(table)}
    assert values["static_gate"]["published"] is None
    assert values["static_gate"]["published_comparison"]["step"] is None
    assert values["hira"]["published_comparison"]["verdict"] == "agrees"
