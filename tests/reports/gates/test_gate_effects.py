"""Reading beside writing, and gates near zero: against numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up_gates import MODULES, make_row, make_text, steady

from gatera.reports.gates.effects import early_attention, histograms, judge
from gatera.reports.gates.text import findings, markdown, values
from gatera.training.evaluation.gated_tokens import GatedModule


def test_the_effect_is_the_mean_over_items_with_a_t_interval():
    texts = [
        make_text(steady(0.2, 0.5), 2, index=0),
        make_text(steady(0.4, 0.6, tokens=(5, 1)), 5, index=1),
        make_text(steady(0.3, 0.7), 2, index=2),
        make_text(steady(0.9, 0.0, tokens=(3, 0)), 3, index=3),  # wrote nothing: not counted
        make_text(steady(0.9, 0.0), 2, task="", index=0),  # one's own: not counted
    ]
    effect = judge([make_row(texts)]).overall["gatera"]
    # Differences 0.3, 0.2, 0.4: mean 0.3, SD 0.1; t(2) at 97.5 % is 4.302653.
    assert effect.difference.pairs == 3
    assert (effect.before, effect.after) == (pytest.approx(0.3), pytest.approx(0.6))
    assert effect.difference.mean == pytest.approx(0.3)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert effect.difference.low == pytest.approx(0.3 - half, abs=1e-6)
    assert effect.difference.high == pytest.approx(0.3 + half, abs=1e-6)
    assert effect.adjusted_p == pytest.approx(0.0350988, abs=1e-6)  # t = 5.196152
    assert effect.verdict == "higher while it writes"


def test_items_of_a_cluster_count_as_one():
    texts = [
        make_text(steady(0.2, 0.3), 2, index=0, cluster="snow"),
        make_text(steady(0.2, 0.5), 2, index=1, cluster="snow"),
        make_text(steady(0.2, 0.6), 2, index=2),
    ]
    difference = judge([make_row(texts)]).overall["gatera"].difference
    assert difference.pairs == 2
    assert difference.mean == pytest.approx((0.2 + 0.4) / 2)


def by_layer(changes):
    """Return gates of two prompt tokens and two decoded ones, that change by layer."""
    changed = np.repeat(changes, 2)  # two modules a layer
    return np.stack([np.full(8, 0.5), np.full(8, 0.5), 0.5 + changed, 0.5 + changed], axis=1)


def test_layers_are_corrected_together():
    noise = np.array([0.01, -0.01, 0.02, -0.02])
    texts = [
        make_text(by_layer([0.3 + e, -0.2 + e, e, 0.02 + e]), 2, index=n)
        for n, e in enumerate(noise)
    ]
    judged = judge([make_row(texts)])
    verdicts = [each.verdict for each in judged.by_layer["gatera"]]
    assert verdicts == [
        *("higher while it writes", "lower while it writes"),
        *("not resolved", "not resolved"),
    ]
    # The third of four to be tested, with 3 degrees of freedom, whose distribution is elementary.
    t = 0.02 / math.sqrt(10e-4 / 3 / 4) / math.sqrt(3)
    p = 1 - 2 / math.pi * (t / (1 + t**2) + math.atan(t))
    last = judged.by_layer["gatera"][3]
    assert last.difference.p == pytest.approx(p, abs=1e-6)
    assert last.adjusted_p == pytest.approx(2 * p, abs=2e-6)
    (said, *_) = findings(judged)
    assert "Of 4 layers: higher in 1 (0), lower in 1 (1), not resolved in 2 (2, 3)." in said


def test_rows_are_corrected_together_and_each_stands_for_itself():
    rows = [
        make_row(
            [make_text(steady(0.5, 0.5 + change + e), 2, index=n) for n, e in enumerate(spread)],
            variant=name,
        )
        for name, change, spread in (
            ("up", 0.1, (0.01, -0.01, 0.02)),
            ("open", 0.0, (0.01, -0.01, 0.02)),
        )
    ]
    overall = judge(rows).overall
    assert overall["up"].adjusted_p == pytest.approx(2 * overall["up"].difference.p)
    assert overall["open"].verdict == "not resolved"
    assert "`open`: gates are not resolved between" in " ".join(findings(judge(rows)))


def test_near_zero_is_asked_of_early_attention():
    early = np.full((8, 5), 0.5)
    early[0, :4] = 0.05  # 4 of 5 tokens of layer 0's q_proj
    early[3, 0] = 0.05  # 1 of 5 tokens of one gate of the 7 others
    other = early.copy()
    other[0, 3] = 0.5
    row = make_row([make_text(early, 2, index=0), make_text(other, 2, index=1)])
    found = judge([row]).early["gatera"]
    assert list(early_attention(row.tokens)) == [True] + [False] * 7
    assert found.after == pytest.approx((4 / 5 + 3 / 5) / 2)
    assert found.before == pytest.approx(1 / 35)
    means = judge([row]).modules
    assert means[0].near_zero == pytest.approx(0.7)
    assert (means[0].layer, means[0].module) == (0, "q_proj")


def test_a_constant_gate_is_not_asked():
    judged = judge([make_row([make_text(steady(0.25, 0.25), 2)], variant="still", constant=True)])
    assert not judged.overall
    assert not judged.early
    assert judged.modules[0].mean == 0.25
    assert judged.modules[0].prompt is None
    (said,) = findings(judged)
    assert "one value, whatever the token, 0.25 to 0.25" in said


def test_one_item_tests_nothing_and_none_says_so():
    judged = judge([make_row([make_text(steady(0.2, 0.5), 2)])])
    assert judged.overall["gatera"].verdict == "not resolved"
    assert "+0.300 [—]" in findings(judged)[0]
    silent = judge([make_row([make_text(steady(0.2, 0.0, tokens=(2, 0)), 2)])])
    assert "wrote nothing that a gate acts on" in findings(silent)[0]
    assert judge([make_row([])]).modules == []


def test_seeds_are_said_apart():
    texts = [make_text(steady(0.2, 0.5 + e), 2, index=n) for n, e in enumerate((0.0, 0.1))]
    judged = judge([make_row(texts, of_seeds={0: 0.1, 1: -0.1, 2: 0.3})])
    # Mean 0.1, SD 0.2, t(2) 4.302653: 0.496830.
    assert "over its 3 seeds" in findings(judged)[1]
    assert "+0.100 [-0.397, +0.597], not resolved" in findings(judged)[1]


def test_a_histogram_has_the_share_of_each_bin():
    read, written = histograms(make_row([make_text(steady(0.01, 0.99), 2)]))
    assert (read[0], written[-1]) == (1.0, 1.0)
    assert read.sum() == written.sum() == pytest.approx(1.0)


def test_names_say_layer_and_kind():
    for name, layer, kind in (
        ("model.layers.11.self_attn.q_proj", 11, "q_proj"),
        ("transformer.h.3.attn.c_attn", 3, "c_attn"),
        ("model.layers.2", 2, "block"),
        ("lm_head", None, "lm_head"),
    ):
        assert (GatedModule(name).layer, GatedModule(name).kind) == (layer, kind)


def test_the_text_has_sentences_tables_and_links():
    texts = [make_text(steady(0.2, 0.5 + e), 2, index=n) for n, e in enumerate((0.0, 0.1))]
    judged = judge([make_row(texts)])
    text = markdown(judged, "A title", "s.tiny.gates.html", ["figures/s.tiny.gates_map.png"])
    assert text.startswith("# A title\n")
    assert "[s.tiny.gates.html](s.tiny.gates.html)" in text
    assert "](figures/s.tiny.gates_map.png)" in text
    assert "| gatera | all | 0.200 | 0.550 | +0.350 [" in text
    effects = values(judged)["effects"]
    assert [each["layer"] for each in effects] == [None, 0, 1, 2, 3]
    assert effects[0]["difference"] == pytest.approx(0.35)
    assert len(values(judged)["modules"]) == len(MODULES)
