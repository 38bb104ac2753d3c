"""Each failure signature is found where it is planted; a healthy row has none."""

import pytest
from made_up import commit_result, make_result, note_end

from gatera.reports.forms.markdown import markdown
from gatera.reports.forms.values import json_rows
from gatera.reports.judging.diagnosis import diagnose
from gatera.reports.records import Curves, RowRecord, TrialRecord, TuningRecord
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather

HEALTHY = {"mean": 0.6, "share_below_0.1": 0.3, "share_above_0.9": 0.5, "entropy": 0.2}


def row_of(*trials, tuning=None):
    return RowRecord("gatera", {}, tuple(trials), tuning)


def kinds(*arguments, **fields):
    return [finding.kind for finding in found_in(*arguments, **fields)]


def found_in(row=None, *, averages=(0.8, 0.81, 0.79), frozen=0.2, gates=HEALTHY, no_keyword=None):
    found = diagnose(
        row or row_of(),
        averages=dict(enumerate(averages)),
        frozen=frozen,
        gates={"overall": gates} if gates else {},
        no_keyword=no_keyword or {"world_kin": 0.005},
    )
    for finding in found:
        assert finding.message
        assert finding.advice
    return found


def test_a_healthy_row_has_no_finding():
    assert kinds() == []
    assert kinds(gates=None, frozen=None, averages=(0.8,)) == []


@pytest.mark.parametrize(
    ("gates", "kind"),
    [
        ({"mean": 0.52, "entropy": 0.69, "share_below_0.1": 0, "share_above_0.9": 0}, "undecided"),
        (
            {"mean": 0.03, "entropy": 0.1, "share_below_0.1": 0.95, "share_above_0.9": 0},
            "collapsed",
        ),
        ({"mean": 0.97, "entropy": 0.1, "share_below_0.1": 0, "share_above_0.9": 0.95}, "ignored"),
    ],
)
def test_a_gate_signature_is_named(gates, kind):
    assert kinds(gates=gates) == [f"gates_{kind}"]


def test_half_of_the_gates_open_and_half_closed_is_not_undecided():
    # The mean is one half, and every gate has decided.
    gates = {"mean": 0.5, "entropy": 0.05, "share_below_0.1": 0.5, "share_above_0.9": 0.5}
    assert kinds(gates=gates) == []


def test_seeds_that_scatter_are_named_from_three_on():
    assert kinds(averages=(0.7, 0.8, 0.9)) == ["seeds_scatter"]
    assert kinds(averages=(0.7, 0.9)) == []


def test_a_row_no_better_than_the_frozen_backbone_is_untrained():
    assert kinds(averages=(0.205, 0.2, 0.199)) == ["untrained"]
    assert kinds(averages=(0.1, 0.1, 0.1)) == ["untrained"]


def curve(losses):
    return Curves(train_loss=tuple(enumerate(losses, start=1)))


def test_divergence_is_found_in_failures_and_in_curves(plan):
    result = make_result(plan.trials_of("gatera")[0], 0.8)
    falling = [5 - 0.1 * step for step in range(40)]
    rising = [2 + (0.5 if step % 2 else 0) + 0.1 * step for step in range(40)]
    done = TrialRecord(0, "done", result, curves=curve(falling))
    assert kinds(row_of(done)) == []
    broken = TrialRecord(1, "failed", None, "train/loss is nan", "not_finite")
    assert kinds(row_of(done, broken)) == ["diverged"]
    assert kinds(row_of(TrialRecord(1, "failed", None, "out of memory", "out_of_memory"))) == []
    grown = TrialRecord(2, "done", result, curves=curve(rising))
    assert kinds(row_of(done, grown)) == ["diverged"]
    noisy_few = TrialRecord(2, "done", result, curves=curve(rising[:10]))
    assert kinds(row_of(noisy_few)) == []


def test_a_tuning_edge_is_named():
    chosen = {"train.learning_rate": 0.1}
    assert kinds(row_of(tuning=TuningRecord(9, chosen))) == []
    edge = TuningRecord(9, chosen, edges=("train.learning_rate",))
    assert kinds(row_of(tuning=edge)) == ["tuning_edge"]


@pytest.mark.parametrize("part", ["training", "scoring"])
def test_cut_sequences_are_named(plan, part):
    trial = plan.trials_of("gatera")[0]
    whole = TrialRecord(0, "done", make_result(trial, 0.8, **{part: {"truncated_items": 0}}))
    assert kinds(row_of(whole)) == []
    cut = TrialRecord(0, "done", make_result(trial, 0.8, **{part: {"truncated_items": 3}}))
    assert kinds(row_of(whole, cut)) == ["truncated"]


def test_answers_without_a_keyword_are_named():
    assert kinds(no_keyword={"world_kin": 0.02, "world_use": 0.0}) == ["no_keyword"]


def test_the_task_with_the_most_answers_without_a_keyword_is_named():
    (found,) = found_in(no_keyword={"a": 0.02, "b": 0.5, "c": 0.03, "d": 0.0, "e": None})
    assert found.message == (
        "50.00 % of the outputs of b, and more than 1 % of 2 other tasks' hold no answer keyword "
        "and count as wrong"
    )


def test_what_several_rows_share_stands_once(store, plan):
    for name in ("frozen", "hira", "gatera"):
        for trial in plan.trials_of(name):
            wordless = {"test/no_keyword/world_kin": 0.25}
            commit_result(store, trial, 0.75, metrics={} if name == "frozen" else wordless)
    text = markdown(build_table(gather(store, plan)))
    assert text.count("- **no_keyword**, to try: ") == 1
    shown = text.partition("- **no_keyword**")[2].splitlines()[1:3]
    assert [line.partition(":")[0] for line in shown] == ["  - hira", "  - gatera"]


def test_findings_stand_beside_their_row_in_the_report(store, plan):
    commit_result(store, plan.trials_of("frozen")[0], 0.5)
    sick = plan.trials_of("hira")[0]
    commit_result(store, sick, 0.5, metrics={"test/no_keyword/world_kin": 0.25})
    for attempt in (1, 2):
        key = plan.trials_of("hira")[1].key
        store.claim(key, {}).release()
        note_end(store, key, attempt, "not_finite", "train/loss is nan", "")
    for trial in plan.trials_of("gatera"):
        commit_result(store, trial, 0.75)
    table = build_table(gather(store, plan))
    text = markdown(table)
    lines = text.partition("## Knowledge, time and memory")[2].splitlines()
    line = next(line for line in lines if line.startswith("| hira |"))
    assert line.endswith("| diverged, untrained, no_keyword |")
    healthy = next(line for line in lines if line.startswith("| gatera |"))
    assert healthy.endswith("| — |")
    assert "- **diverged**, to try: lower train.learning_rate" in text
    assert "\n  - hira: the training loss of seed 1 met a NaN" in text
    assert "\n  - hira: 25.00 % of the outputs of world_kin hold no answer keyword" in text
    rows = {row["variant"]: row for row in json_rows(table)}
    assert [finding["kind"] for finding in rows["hira"]["findings"]] == [
        "diverged",
        "untrained",
        "no_keyword",
    ]
    assert rows["gatera"]["findings"] == []
