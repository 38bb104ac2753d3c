"""The picture of accuracy against cost: axes that begin at nothing, and whole markers."""

import dataclasses

import pytest
from made_up import commit_result

from gatera.reports.forms.figures import _styles, draw_cost
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather


@pytest.fixture
def rows(store, plan):
    """Return the trained rows: nearly of one size, and of unequal times."""
    seconds = {"hira": 10.0, "static_gate": 12.0, "gatera": 15.0}
    for trial in plan.trials:
        commit_result(store, trial, 0.5, seconds=seconds.get(trial.variant, 5.0))
    table = build_table(gather(store, plan))
    sizes = {"hira": 165_888, "static_gate": 165_903, "gatera": 168_495}
    return [
        dataclasses.replace(row, trainable=sizes[row.variant])
        for row in table.rows
        if row.variant in sizes
    ]


@pytest.fixture
def styles(store, plan, rows):
    return _styles(gather(store, plan))


def test_axes_begin_at_nothing_and_hold_every_marker_whole(rows, styles):
    figure = draw_cost(rows, styles, "accuracy, %", measured=True)
    sizes, times = figure.axes[:2]
    for panel, most in ((sizes, 168_495), (times, 15.0)):
        low, high = panel.get_xlim()
        assert low == 0
        assert 1.03 * most < high < 1.2 * most  # room for half a marker, and no more
    assert times.get_xlabel().startswith("time of a trial, s")


def test_sizes_that_differ_by_factors_stand_on_a_logarithmic_axis(rows, styles):
    rows[0] = dataclasses.replace(rows[0], trainable=1_000)
    figure = draw_cost(rows, styles, "accuracy, %", measured=False)
    (panel,) = figure.axes
    assert panel.get_xscale() == "log"
    assert 0 < panel.get_xlim()[0] < 1_000
