"""The sentences that stand first: each number by hand, each word a verdict's."""

import dataclasses
import math
import random
import statistics

import pytest
from made_up import commit_result, note_end
from scipy import stats

from gatera.reports.forms.findings import findings
from gatera.reports.judging import agreement
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather

SCORES = {
    "frozen": [0.1],
    "hira": [0.49, 0.55, 0.61],
    "static_gate": [0.71, 0.76, 0.79],
    "gatera": [0.7, 0.75, 0.8],
}


def fill(store, plan, scores=None, **options):
    for variant, values in (scores or SCORES).items():
        for trial, score in zip(plan.trials_of(variant), values, strict=False):
            if score is not None:
                commit_result(store, trial, score, **options)
    return gather(store, plan)


def found_in(record, **changes):
    return findings(build_table(dataclasses.replace(record, **changes)))


def starting(sentences, beginning):
    (found,) = [each for each in sentences if each.startswith(beginning)]
    return found


def test_what_is_resolved_stands_first_and_what_is_not_after_it(store, plan):
    said = found_in(fill(store, plan))
    # By hand: differences -0.21, -0.2, -0.19; t(2) = 4.3027; p as in the tests of the table.
    assert said[0] == (
        "`hira` is 20.00 points below `gatera` (95 % interval -22.48 to -17.52, 3 seeds): "
        "resolved, p = 0.002."
    )
    # 0.01, 0.01 and -0.01: mean 0.333 points, SD 1.1547, so that the interval reaches 2.868.
    assert said[1] == (
        "Not resolved, in points with 95 % intervals: `static_gate` +0.33 [-2.54 to +3.20]."
    )


def test_training_is_set_beside_the_frozen_backbone(store, plan):
    said = starting(found_in(fill(store, plan)), "`gatera` scores")
    # 0.75 ± 0.05 over three seeds: 4.3027 * 5 / sqrt 3 = 12.42
    assert said == (
        "`gatera` scores 75.00 (95 % interval over seeds 62.58 to 87.42), the frozen backbone "
        "10.00."
    )


def test_what_seeds_cannot_tell_is_said_with_its_number(store, plan):
    said = starting(found_in(fill(store, plan)), "These 3 seeds")
    # As in the tests of the table: 3.264 of the larger spread; its interval reaches 2.868.
    assert "one of 3.77 points is found with 80 % power" in said
    assert said.endswith("the median 95 % interval reaches 2.87 to either side.")


def test_noise_is_the_mean_distance_of_two_seeds(store, plan):
    said = starting(found_in(fill(store, plan), published="gatera_table5"), "Noise")
    values = [100 * each for each in SCORES["gatera"]]
    sd = statistics.stdev(values)
    apart = 2 / math.sqrt(math.pi) * sd
    low, high = (apart * math.sqrt(2 / stats.chi2.ppf(q, 2)) for q in (0.975, 0.025))
    assert f"lie {apart:.2f} points apart on average" in said
    assert f"(95 % interval {low:.2f} to {high:.2f})" in said
    assert said.endswith("; 2 of the 2 published steps are smaller.")  # 0.81 and 0.56 points
    assert "published" not in starting(found_in(gather(store, plan)), "Noise")


def test_the_mean_distance_of_two_draws_is_that_share_of_the_deviation():
    chance = random.Random(0)
    apart = [abs(chance.gauss(0, 1) - chance.gauss(0, 1)) for _ in range(20_000)]
    assert statistics.fmean(apart) == pytest.approx(2 / math.sqrt(math.pi), abs=0.02)


def test_the_paper_on_another_model_is_set_beside_and_no_test(store, plan):
    said = starting(found_in(fill(store, plan), published="gatera_table5"), "The paper's")
    assert said == (
        "The paper's largest step, `hira` -0.81 to `gatera`, stands beside -20.00 [-22.48 to "
        "-17.52] here; 1 of its 2 steps lies in our intervals. It was measured on LLaMA-3-8B: "
        "beside it, this is no test."
    )
    for word in ("confirm", "refut", "reproduc", "agree"):
        assert word not in " ".join(found_in(gather(store, plan), published="gatera_table5"))


def test_the_paper_on_its_own_model_is_compared(store, plan, monkeypatch):
    monkeypatch.setattr(agreement, "_incomparable", lambda published, record: None)
    said = starting(found_in(fill(store, plan), published="gatera_table5"), "The paper's")
    assert said.endswith("; 1 of its 2 steps lies in our intervals.")


def test_many_differences_that_are_not_resolved_are_a_range(store, plan):
    record = fill(store, plan, {**SCORES, "hira": [0.71, 0.74, 0.8]})
    hira = next(row for row in record.rows if row.variant == "hira")
    copies = [dataclasses.replace(hira, variant=f"copy_{n}") for n in range(3)]
    said = found_in(record, rows=(record.rows[0], *copies, *record.rows[1:]))
    # 0.01, -0.01, 0: mean 0, SD 1 point; beside static_gate's +0.33 [-2.54, +3.20]
    # The widest interval is static_gate's to above; below it reaches 2.54, theirs 2.48.
    assert said[0].startswith("All 5 differences to `gatera` are not resolved: ")
    assert said[0].endswith("to +0.33 points, 95 % intervals within -2.54 to +3.20.")


def test_one_seed_tests_nothing(store, plan):
    said = found_in(fill(store, plan, {name: each[:1] for name, each in SCORES.items()}))
    assert said[0] == (
        "One seed tests nothing: -21.00 to +1.00 points, with no interval over seeds."
    )
    assert not any(each.startswith(("Noise", "These")) for each in said)


def test_a_row_whose_seeds_diverged_has_no_verdict(store, plan):
    for attempt in (1, 2):
        trial = plan.trials_of("hira")[2]
        store.claim(trial.key, {}).release()
        note_end(store, trial.key, attempt, "not_finite", "it ended", "")
    said = found_in(fill(store, plan, {**SCORES, "hira": [0.49, 0.55, None]}))
    assert starting(said, "No verdict on `hira`").endswith("over the seeds that did not diverge.")
    assert not any("`hira` is" in each for each in said)


def test_rows_that_are_the_same_trials_are_said_to_be(store, plan):
    record = fill(store, plan)
    reference = record.rows[-1]
    tuned = dataclasses.replace(reference, variant="tuned")
    said = found_in(record, rows=(*record.rows, tuned))
    assert starting(said, "No verdict on `tuned`") == (
        "No verdict on `tuned`: +0.00 points: its 3 seeds are the same trials, run once."
    )
    assert said.index(starting(said, "No verdict")) > said.index(starting(said, "Not resolved"))


def test_a_store_without_results_says_so(store, plan):
    assert found_in(gather(store, plan)) == [
        "Nothing can be compared yet: no row shares a finished seed with `gatera`."
    ]


def test_the_row_that_skips_most_without_a_loss_is_named(store, plan):
    shares = {"static_gate": 0.25, "hira": 0.75, "gatera": 0.125}
    scores = {**SCORES, "static_gate": [0.71, 0.76, 0.8]}
    for variant, by_seed in scores.items():
        for trial, score in zip(plan.trials_of(variant), by_seed, strict=True):
            gates = {"share_skipped": shares[variant]} if variant in shares else {}
            commit_result(store, trial, score, gates=gates)
    said = starting(found_in(gather(store, plan)), "Of the rows whose interval")
    # `hira` skips more, and loses more. By hand: differences 0.01, 0.01, 0; mean 0.667 points,
    # SD 0.577; 4.3027 times the error is 1.434.
    assert said == (
        "Of the rows whose interval excludes a loss of 2 points, `static_gate` skips most: 25.00 % "
        "of its updates, at +0.67 [-0.77 to +2.10]."
    )


def test_a_row_whose_interval_allows_a_loss_is_not_named(store, plan):
    for variant, scores in SCORES.items():  # static_gate's interval reaches down to -2.54
        for trial, score in zip(plan.trials_of(variant), scores, strict=True):
            commit_result(store, trial, score, gates={"share_skipped": 0.5})
    assert not any(each.startswith("Of the rows") for each in found_in(gather(store, plan)))
