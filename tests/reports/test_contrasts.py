"""Contrasts: what a study asks of several rows, paired by seed, and tests in place of its rows."""

import dataclasses
import json
import math
import statistics

import pytest
from made_up import commit_result, note_end
from scipy import stats

from gatera import cli
from gatera.errors import InputError
from gatera.reports.forms.latex import latex
from gatera.reports.forms.markdown import markdown
from gatera.reports.forms.values import contrast_values
from gatera.reports.judging.comparison import item_differences
from gatera.reports.tables import build_table
from gatera.studies import Contrast, Study, Variant
from gatera.studies.catalog import LoadedStudy, entries, load
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan

SCORES = {  # by row, of five seeds
    "lora": [0.50, 0.55, 0.52, 0.61, 0.58],
    "gated_lora": [0.56, 0.60, 0.59, 0.66, 0.62],
    "hira": [0.70, 0.64, 0.72, 0.69, 0.75],
    "gatera": [0.71, 0.66, 0.71, 0.72, 0.74],
}
GATE_ON_LORA = Contrast("gate on lora", {"gated_lora": 1, "lora": -1})
GAIN = Contrast("gain on lora against hira", {"gated_lora": 1, "lora": -1, "gatera": -1, "hira": 1})
MEAN = Contrast("gated | not", {"gated_lora": 0.5, "gatera": 0.5, "lora": -0.5, "hira": -0.5})


@pytest.fixture
def asked():
    """A study of four rows that asks three questions."""
    variants = (
        Variant("lora", changes={"adapter.delta": "lora", "adapter.gate": "none"}),
        Variant("gated_lora", changes={"adapter.delta": "lora"}),
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("gatera"),
    )
    study = Study(variants, reference="gatera", contrasts=(GATE_ON_LORA, GAIN, MEAN))
    return LoadedStudy("asked", study, path=__file__, sha256="s" * 64)


@pytest.fixture
def asked_plan(asked, tmp_path):
    return make_plan(dataclasses.replace(asked, path=tmp_path / "asked.py"), Request())


@pytest.fixture
def record(store, asked_plan):
    for variant, scores in SCORES.items():
        for trial, score in zip(asked_plan.trials_of(variant), scores, strict=True):
            commit_result(store, trial, score)
    return gather(store, asked_plan)


def by_hand(weights):
    """Return mean, interval and p of a weighted sum of rows, by the textbook."""
    sums = [sum(w * SCORES[row][seed] for row, w in weights.items()) for seed in range(5)]
    mean, error = statistics.fmean(sums), statistics.stdev(sums) / math.sqrt(5)
    reach = stats.t.ppf(0.975, 4) * error
    return mean, mean - reach, mean + reach, 2 * stats.t.sf(abs(mean / error), 4)


def test_a_contrast_is_the_paired_test_of_its_weighted_sum(record):
    table = build_table(record)
    p_values = {}
    for contrast in (GATE_ON_LORA, GAIN, MEAN):
        found = table.contrasts[contrast.name].difference
        mean, low, high, p_values[contrast.name] = by_hand(contrast.weights)
        assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high))
        assert found.p == pytest.approx(p_values[contrast.name])
        crossed = table.contrasts[contrast.name].crossed
        assert crossed.mean == pytest.approx(mean)
    # Holm over the three contrasts, by hand: 3, 2 and 1 times the ordered p-values.
    ordered, running = sorted(p_values, key=p_values.get), 0.0
    for rank, name in enumerate(ordered):
        running = max(running, min(1.0, (3 - rank) * p_values[name]))
        assert table.contrasts[name].adjusted_p == pytest.approx(running)


def test_rows_get_intervals_and_no_verdict(record):
    table = build_table(record)
    for row in table.rows[1:-1]:
        assert row.comparison.verdict == "not tested"
        assert math.isnan(row.comparison.adjusted_p)
        assert math.isfinite(row.comparison.difference.low)
    plain = build_table(dataclasses.replace(record, contrasts={}))
    assert plain.row("lora").comparison.difference == table.row("lora").comparison.difference
    assert plain.row("lora").comparison.verdict == "resolved"


def test_every_form_says_the_contrasts(record):
    table = build_table(record)
    text = markdown(table)
    assert "| gate on lora | 5 | +5.40 [+3.98, +6.82] | resolved (p " in text
    assert "| gate on lora | gated_lora - lora | 5 | +5.40 [+3.98, +6.82] |" in text
    assert (
        "- *gate on lora*: +5.40 points (95 % interval +3.98 to +6.82, 5 seeds): resolved" in text
    )
    assert "| gain on lora against hira | gated_lora - lora - gatera + hira | 5 |" in text
    assert "0.5 gated_lora + 0.5 gatera - 0.5 lora - 0.5 hira" in text
    assert "| resolved (p = 0.001) |" in text
    assert r"| gated \| not | 0.5 gated_lora" in text
    assert "This study tests its contrasts" in text
    assert text.count("| contrast |") == 2  # the compact table, and what it rests on
    header = next(line for line in text.splitlines() if line.startswith("| variant |"))
    assert "verdict" not in header
    tex = latex(table)
    assert tex.count(r"\begin{tabular}") == 2
    assert r"gate on lora & 5 & +5.40" in tex
    values = contrast_values(table)
    assert values["gate on lora"]["rows"] == {"gated_lora": 1, "lora": -1}
    assert values["gate on lora"]["mean"] == pytest.approx(0.054)
    json.dumps(values, allow_nan=False)


def test_items_of_a_contrast_are_weighted_sums_of_right_answers(record):
    rows = {row.variant: row for row in record.rows}
    weights = GAIN.weights
    found = item_differences([(rows[name], w) for name, w in weights.items()], record.tasks)
    task = record.tasks[1]
    for seed, item in ((0, 3), (4, 750), (2, 610)):
        expected = sum(w * rows[name].items[seed][task][item] for name, w in weights.items())
        assert found[task][seed, item] == expected


def test_a_seed_that_one_row_lacks_is_left_out_and_said(store, asked_plan):
    for variant, scores in SCORES.items():
        for trial, score in zip(asked_plan.trials_of(variant), scores, strict=True):
            if (variant, trial.seed) == ("hira", 3):
                store.claim(trial.key, {}).release()
                note_end(store, trial.key, 1, "input", "it broke")
            else:
                commit_result(store, trial, score)
    table = build_table(gather(store, asked_plan))
    assert table.contrasts["gate on lora"].difference.pairs == 5
    assert table.contrasts["gain on lora against hira"].seeds == (0, 1, 2, 4)
    assert "| gain on lora against hira | 4/5 |" in markdown(table)


def test_contrasts_go_through_the_plan_and_need_all_their_rows(asked, asked_plan, tmp_path):
    assert Plan.from_json(json.loads(json.dumps(asked_plan.to_json()))) == asked_plan
    located = dataclasses.replace(asked, path=tmp_path / "asked.py")
    cut = make_plan(located, Request(variants=("gated_lora", "lora", "gatera")))
    assert list(cut.contrasts) == ["gate on lora"]
    assert "gain on lora against hira: not asked here, without the row hira" in cut.notes


@pytest.mark.parametrize(
    "weights",
    [{}, {"a": 1}, {"a": 1, "b": 1}, {"a": 1, "b": -1, "c": 0}, {"a": math.nan, "b": -1}],
)
def test_weights_that_ask_nothing_are_refused(weights):
    with pytest.raises(InputError, match="add up to 0"):
        Contrast("what", weights)


def test_a_contrast_is_of_rows_that_there_are_and_has_a_name_of_its_own():
    rows = (Variant("a"), Variant("b"))
    one = Contrast("one", {"a": 1, "b": -1})
    with pytest.raises(InputError, match="no variant 'c' in this study"):
        Study(rows, reference="a", contrasts=(Contrast("one", {"a": 1, "c": -1}),))
    with pytest.raises(InputError, match="stand twice"):
        Study(rows, reference="a", contrasts=(one, one))
    for name in ("", " ", "two\nlines", "a" * 81):
        with pytest.raises(InputError, match="expected one line"):
            Contrast(name, {"a": 1, "b": -1})


def test_json_has_the_contrasts_of_a_shipped_study(tmp_path, monkeypatch, capsys, store):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load("coverage_table4"), Request(seeds=2))
    store.write_plan(plan)
    for place, trial in enumerate(plan.trials):
        commit_result(store, trial, 0.5 + 0.01 * place)
    arguments = ["report", "coverage_table4", "--seeds", "2", "--store", str(store.folder)]
    assert cli.main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    parts = ("FC", "QKV", "Q", "K", "V", "QK", "QV", "QKV + FC")
    assert list(answer["contrasts"]) == [f"gate on {part}" for part in parts]
    assert answer["contrasts"]["gate on FC"]["pairs"] == 2


@pytest.mark.parametrize("name", [each.name for each in entries()])
def test_every_shipped_study_has_a_plan(name):
    plan = make_plan(load(name), Request(seeds=2))
    assert set(plan.contrasts) == {contrast.name for contrast in load(name).study.contrasts}
