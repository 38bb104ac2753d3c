import statistics

import pytest

from gatera.reports.published import (
    COMMONSENSE,
    COMPONENTS,
    DIALOGUE,
    LLAMA_2,
    LLAMA_3,
    MATH,
    REPLICATED_SD,
    TABLES,
    TRAINABLE,
    published_table,
)


def row_of(rows, model, method, r=32):
    return next(row for row in rows if (row.model, row.method, row.r) == (model, method, r))


@pytest.mark.parametrize("row", [*COMMONSENSE, *DIALOGUE], ids=lambda r: f"{r.model}-{r.method}")
def test_a_printed_average_is_the_mean_of_its_row(row):
    # Only copied right are both: each number is printed to two decimals.
    if len(row.scores) > 1:
        assert statistics.fmean(row.scores.values()) == pytest.approx(row.average, abs=0.0051)


def test_rows_are_those_of_the_papers():
    assert len(COMMONSENSE) == 13
    assert len(DIALOGUE) == 8
    assert [row.average for row in MATH] == [65.89, 66.12, 67.98, 67.63, 70.81, 72.11]
    assert row_of(COMMONSENSE, LLAMA_2, "MoRA").scores["hellaswag"] == 29.09
    assert row_of(COMMONSENSE, LLAMA_3, "HiRA").scores["openbookqa"] == 88.32
    assert row_of(COMMONSENSE, LLAMA_3, "GateRA", 16).scores == {"piqa": 89.45}
    assert row_of(COMMONSENSE, LLAMA_2, "GateRA").average == 82.52
    assert row_of(DIALOGUE, LLAMA_3, "HiRA").scores["bleu"] == 3.41
    assert {row.average for row in COMPONENTS} == {86.53, 86.04, 86.5, 85.13, 86.97, 87.08}
    assert TRAINABLE[(LLAMA_3, "GateRA", 32)] == 0.71
    assert TRAINABLE[(LLAMA_2, "HiRA", 16)] == 0.4128


def test_what_others_report_stands_beside_the_weak_baseline():
    note = TABLES["commonsense"].notes["lora"]
    for number in ("83.5 to 86.8", "86.78 in DropLoRA", "86.48 with", "HiRA at 85.30"):
        assert number in note
    assert REPLICATED_SD == 0.77


def test_no_row_stands_twice():
    every = [
        (rows, row.model, row.method, row.r)
        for rows, group in enumerate((COMMONSENSE + COMPONENTS, DIALOGUE, MATH))
        for row in group
    ]
    assert len(every) == len(set(every))


def test_tables_are_selections_of_the_rows():
    table = TABLES["gatera_table5"]
    assert table.averages == {
        "hira": 86.72,
        "static_gate": 86.97,
        "no_entropy": 87.08,
        "gatera": 87.53,
    }
    assert table.trainable == {"hira": 0.7002, "gatera": 0.71}
    assert "about 86.5" in TABLES["gatera_table4"].notes["gatera_qkv"]
    assert TABLES["gsm8k"].averages["gatera"] == 72.11
    assert "gatera" not in TABLES["dialogue"].averages  # nobody published it


def test_the_table_of_a_backbone_is_that_of_its_model():
    assert published_table("gatera_table5", "tiny").model == LLAMA_3
    other = published_table("gatera_table5", "llama-2-7b")
    assert other.model == LLAMA_2
    assert other.averages == {"hira": 81.42, "gatera": 82.52}
    assert published_table("gsm8k", "llama-2-7b").model == LLAMA_3  # there is no other
