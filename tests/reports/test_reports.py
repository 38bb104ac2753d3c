import csv
import dataclasses
import io
import json

import pytest
from made_up import CODE, commit_result

from gatera.errors import InputError
from gatera.reports.latex import latex
from gatera.reports.markdown import markdown
from gatera.reports.published import TABLES
from gatera.reports.tables import build_table
from gatera.reports.values import csv_text, json_rows
from gatera.reports.write import write_report
from gatera.studies.gather import gather
from gatera.studies.store import Failure

SCORES = {
    "frozen": [0.1],
    "hira": [0.5, 0.55, 0.6],
    "static_gate": [0.71, 0.76, 0.79],
    "gatera": [0.7, 0.75, 0.8],
}


@pytest.fixture
def filled(store, plan):
    """A store in which every trial has a known score."""
    for variant, scores in SCORES.items():
        for trial, score in zip(plan.trials_of(variant), scores, strict=True):
            commit_result(store, trial, score)
    return store


@pytest.fixture
def record(filled, plan):
    return gather(filled, plan, code_sha256=CODE)


def test_the_rows_hold_means_differences_and_verdicts(record):
    table = build_table(record)
    assert [row.variant for row in table.rows] == list(SCORES)
    hira = table.row("hira")
    assert hira.average == pytest.approx(0.55)
    assert hira.spread == pytest.approx(0.05)
    # The difference is -0.2 at every seed.
    assert hira.comparison.difference.mean == pytest.approx(-0.2)
    assert hira.comparison.verdict == "resolved"
    static = table.row("static_gate").comparison
    assert static.difference.mean == pytest.approx(0.01 / 3)
    assert static.verdict == "not resolved"
    assert static.seeds_needed > 3
    assert table.row("gatera").comparison is None
    assert table.row("frozen").comparison is None


def test_the_markdown_says_what_the_numbers_are(record):
    text = markdown(build_table(record))
    assert text.startswith("# made_up at scale tiny\n")
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "3"
    assert cells[2:10] == ["55.00"] * 8
    assert cells[10] == "55.00 ± 5.00"
    assert cells[11].startswith("-20.00 [")
    assert cells[12].startswith("resolved (p < 0.001)")
    assert cells[13] == "1,234 (1.2494 %)"
    assert cells[14:] == ["10.0 s", "256 MiB", "seeds_scatter"]
    assert "gatera (reference)" in text
    assert "| gatera | 0.250 | 50.00 | 12.50 | 0.375 | 0.250 | 0.250 |" in text
    assert f"code_sha256: {CODE[:16]}" in text


def test_what_a_clock_says_can_be_left_out(record):
    table = build_table(record)
    assert "10.0 s" in markdown(table)
    assert "10.0 s" not in markdown(table, measured=False)
    assert "seconds" not in csv_text(table, measured=False)


def test_all_forms_hold_the_same_numbers(record):
    table = build_table(record)
    rows = json_rows(table)
    read = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [row["variant"] for row in read] == [row["variant"] for row in rows]
    for flat, row in zip(read, rows, strict=True):
        assert float(flat["average"]) == row["average"]
        assert float(flat["scores.world_truth"]) == row["scores"]["world_truth"]
        if row["difference"]:
            assert float(flat["difference.low"]) == row["difference"]["low"]
        percent = f"{100 * row['average']:.2f}"
        assert percent in markdown(table)
        assert percent in latex(table)
    json.dumps(rows, allow_nan=False)


def test_latex_is_escaped_and_has_booktabs_rules(record):
    text = latex(build_table(record))
    assert r"static\_gate" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in rows}) == 1


def test_a_missing_trial_is_a_dash_with_its_reason(store, plan):
    trial = plan.trials_of("hira")[0]
    for attempt in (1, 2):
        store.claim(trial.key, {}).release()
        store.write_failure(trial.key, Failure(attempt, "bug", "hira, seed 0: it broke", ""))
    commit_result(store, plan.trials_of("gatera")[0], 0.5)
    text = markdown(build_table(gather(store, plan, code_sha256=CODE)))
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    assert line.startswith("| hira | 0/3 | — | — |")
    assert "- hira, seed 0: failed: hira, seed 0: it broke" in text
    assert "- hira, seed 1: has not run" in text


def test_one_seed_gives_a_difference_and_no_test(store, plan):
    commit_result(store, plan.trials_of("hira")[0], 0.5)
    commit_result(store, plan.trials_of("gatera")[0], 0.75)
    text = markdown(build_table(gather(store, plan, code_sha256=CODE)))
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    assert "| -25.00 [—] | one seed: no test |" in line


def test_stale_results_are_never_shown_as_current(filled, plan):
    text = markdown(build_table(gather(filled, plan, code_sha256="other" * 10)))
    assert "55.00" not in text
    assert "`run --retry stale` runs it again" in text


def test_results_that_were_made_differently_are_refused(store, plan, tmp_path):
    commit_result(store, plan.trials_of("hira")[0], 0.5)
    commit_result(store, plan.trials_of("gatera")[0], 0.75, versions={"torch": "2.12.0"})
    record = gather(store, plan, code_sha256=CODE)
    with pytest.raises(InputError, match=r"versions — .*2\.13\.0.*hira/seed0.*2\.12\.0.*gatera"):
        write_report(record, tmp_path / "reports")
    assert not (tmp_path / "reports").exists()
    mixed = write_report(record, tmp_path / "reports", allow_mixed=True)
    assert "the rows were not made alike (versions)" in mixed.markdown


def test_a_report_is_the_same_bytes_twice(record, tmp_path):
    first = write_report(record, tmp_path / "a").files
    second = write_report(record, tmp_path / "b").files
    assert [p.name for p in first] == [
        "made_up.tiny.md",
        "made_up.tiny.csv",
        "made_up.tiny.tex",
        "made_up.tiny.differences.png",
        "made_up.tiny.accuracy.png",
    ]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_report_holds_no_local_path(record, tmp_path):
    written = write_report(record, tmp_path / "a")
    assert str(tmp_path) not in written.markdown


def test_the_published_column_is_headed_by_its_model(record):
    table = build_table(dataclasses.replace(record, published="gatera_table5"))
    text = markdown(table)
    assert "| published (LLaMA-3-8B) |" in text
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    assert "| 86.72 |" in line
    frozen = next(line for line in text.splitlines() if line.startswith("| frozen |"))
    assert "| — |" in frozen
    assert "at another scale it is no target" in text


def test_a_curve_is_drawn_where_the_study_asks(record, tmp_path):
    rows = tuple(
        dataclasses.replace(row, changes={**row.changes, "adapter.r": 2**place})
        for place, row in enumerate(record.rows)
    )
    curved = dataclasses.replace(record, rows=rows, curve="adapter.r")
    files = write_report(curved, tmp_path).files
    assert (tmp_path / "figures" / "made_up.tiny.curve.png") in files


def test_published_tables_name_variants_of_the_shipped_studies():
    from gatera.studies import catalog

    for entry in catalog.entries():
        study = catalog.load(entry.name).study
        if study.published is not None:
            names = {variant.name for variant in study.variants}
            assert TABLES[study.published].averages.keys() <= names
