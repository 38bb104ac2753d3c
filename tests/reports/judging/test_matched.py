"""Knowledge kept, read where two runs are equally accurate."""

import dataclasses
import json

import pytest
from made_up import commit_result

from gatera.reports.forms.markdown import markdown
from gatera.reports.forms.values import matched_values
from gatera.reports.judging.matched import loss_at
from gatera.reports.judging.paired import paired_difference
from gatera.reports.records import TuningRecord
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan

ACCURACY = ((10, 0.2), (20, 0.6), (30, 0.5), (40, 0.9))
LOSS = ((10, 1.0), (15, 7.0), (20, 1.4), (30, 1.5), (40, 2.5))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.1, 1.0),  # it was above at its first validation
        (0.2, 1.0),
        (0.3, 1.1),  # a quarter of the way from 0.2 to 0.6
        (0.6, 1.4),
        (0.8, 2.25),  # three quarters of the way from 0.5 to 0.9
        (0.9, 2.5),
        (0.91, None),
    ],
)
def test_the_loss_is_read_where_the_accuracy_is_first_reached(level, expected):
    assert loss_at(ACCURACY, LOSS, level) == (None if expected is None else pytest.approx(expected))


def test_no_loss_is_read_where_none_was_measured():
    assert loss_at(ACCURACY, (), 0.1) is None
    assert loss_at(ACCURACY, ((11, 1.0),), 0.1) is None


def course_of(variant, seed):
    """Return (accuracy, loss) by step: hira forgets faster, and comes less far."""
    pace = 0.8 if variant == "hira" else 1.0
    forgets = {"hira": 0.9, "static_gate": 0.5}.get(variant, 0.4) + 0.01 * seed**2
    accuracy = {step: 0.02 * step * pace for step in (10, 20, 30)}
    return accuracy, {step: 2.0 + forgets * step / 30 for step in accuracy}


def write_course(store, trial, attempt):
    accuracy, loss = course_of(trial.variant, trial.seed)
    lines = [
        {"step": step, "val/accuracy": accuracy[step], "knowledge/loss": loss[step]}
        for step in accuracy
    ]
    path = store.attempt_folder(trial.key, attempt) / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_rows_are_compared_at_the_accuracy_that_both_runs_of_a_pair_reach(store, study):
    plan = make_plan(study, Request(seeds=4))
    store.write_plan(plan)
    for trial in plan.trials:
        result = commit_result(store, trial, 0.5)
        if not trial.is_frozen:
            write_course(store, trial, result.attempt)
    table = build_table(gather(store, plan))
    assert set(table.matched) == {"hira", "static_gate"}
    # hira reaches 0.48 at its end; the reference passes there at step 24.
    ours = {seed: course_of("hira", seed)[1][30] for seed in range(4)}
    theirs = {s: 2.0 + (course_of("gatera", s)[1][30] - 2.0) * 24 / 30 for s in range(4)}
    expected = paired_difference(ours, theirs)
    found = table.matched["hira"]
    assert found.accuracy == pytest.approx(0.48)
    assert found.difference.mean == pytest.approx(expected.mean)
    assert found.difference.high == pytest.approx(expected.high)
    assert found.adjusted_p >= expected.p
    assert found.verdict == "resolved"
    assert table.matched["static_gate"].accuracy == pytest.approx(0.6)
    text = markdown(table)
    assert "## Knowledge kept at equal accuracy" in text
    assert "| hira | 4 | 48.00 | +" in text
    assert matched_values(table)["hira"]["mean"] == pytest.approx(expected.mean)
    json.dumps(matched_values(table), allow_nan=False)
    assert "tuned for accuracy" not in text


def test_what_rows_were_tuned_to_beside_their_method_is_said(store, study):
    plan = make_plan(study, Request(seeds=2))
    store.write_plan(plan)
    for trial in plan.trials:
        result = commit_result(store, trial, 0.5)
        if not trial.is_frozen:
            write_course(store, trial, result.attempt)
    record = gather(store, plan)

    def tuned(**rates):
        rows = [
            dataclasses.replace(row, tuning=TuningRecord(6, {"train.learning_rate": rate}))
            if (rate := rates.get(row.variant))
            else row
            for row in record.rows
        ]
        return markdown(build_table(dataclasses.replace(record, rows=tuple(rows))))

    text = tuned(hira=0.0109, gatera=0.032)
    assert "`hira` train.learning_rate 0.0109; `gatera` train.learning_rate 0.032" in text
    assert "a larger learning rate may cost knowledge" in text
    assert "tuned for accuracy" not in tuned(hira=0.032, gatera=0.032)


def test_nothing_is_said_where_the_loss_was_not_followed(store, study):
    plan = make_plan(study, Request(seeds=2))
    store.write_plan(plan)
    for trial in plan.trials:
        commit_result(store, trial, 0.5)
    table = build_table(gather(store, plan))
    assert table.matched == {}
    assert "equal accuracy" not in markdown(table)
