"""The score that verdicts rest on: its words, its items, and how well it tells rows apart."""

import dataclasses
import math
import statistics

import numpy as np
import pytest
from made_up import answers_worth, commit_result, log_probability

from gatera.errors import InputError
from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.forms.markdown import markdown
from gatera.reports.judging.bootstrap import clustered, crossed_bootstrap
from gatera.reports.judging.signal import signal
from gatera.reports.published import published_table
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.study import Study, Variant

SCORES = {"hira": 0.25, "static_gate": 0.5, "gatera": 0.75, "frozen": 0.125}


@pytest.fixture
def weighed(study):
    """The made-up study, whose verdicts rest on log-probabilities."""
    return dataclasses.replace(
        study,
        study=dataclasses.replace(study.study, endpoint="log_probability", seeds=(0, 1, 2, 3, 4)),
    )


def fill(store, plan, **options):
    store.write_plan(plan)
    for trial in plan.trials:
        commit_result(store, trial, SCORES[trial.variant], **options)


def test_verdicts_rest_on_the_endpoint_of_the_study(store, weighed):
    plan = make_plan(weighed, Request())
    fill(store, plan, clustered=True)
    record = gather(store, plan)
    table = build_table(record)
    for variant, share in SCORES.items():
        (row,) = [each for each in table.rows if each.variant == variant]
        seeds = [trial.seed for trial in plan.trials_of(variant)]
        assert list(row.average_by_seed.values()) == pytest.approx(
            [
                share * log_probability(True, s) + (1 - share) * log_probability(False, s)
                for s in seeds
            ]
        )
    text = markdown(table)
    assert "hundredths of a nat (0 is certainty), mean over seeds" in text
    assert "paired by seed, in hundredths of a nat" in text
    assert "Items that ask about the same thing are drawn together." in text
    task = plan.tasks[0]
    hira = next(row for row in record.rows if row.variant == "hira")
    assert hira.items[3][task][0] == pytest.approx(
        log_probability(answers_worth(0.25)[0], 3), rel=1e-6
    )
    assert record.clusters[task][5] == f"{task} 2"
    assert table.row("hira").comparison.crossed.items * 2 == sum(
        len(hira.items[0][task]) for task in plan.tasks
    )


def test_both_endpoints_say_how_well_they_tell_rows_apart(store, study):
    plan = make_plan(study, Request(seeds=3))
    fill(store, plan)
    table = build_table(gather(store, plan))
    assert [each.endpoint for each in table.signals] == ["accuracy", "log_probability"]
    accuracy, weighed = table.signals
    trained = [SCORES[row.variant] for row in table.rows if row.variant != "frozen"]
    assert accuracy.between == pytest.approx(statistics.stdev(trained))
    assert (accuracy.within, accuracy.ratio) == (0.0, None)
    averages = [[share * -0.1 + (1 - share) * -2.5] for share in trained]
    rows = [[mean[0] * (1 + seed / 100) for seed in range(3)] for mean in averages]
    within = math.sqrt(statistics.fmean(statistics.variance(row) for row in rows))
    assert weighed.within == pytest.approx(within)
    assert weighed.ratio == pytest.approx(
        statistics.stdev(statistics.fmean(row) for row in rows) / within
    )
    text = markdown(table)
    assert f"| accuracy | yes | {100 * accuracy.between:.2f} | 0.00 | — |" in text
    assert f"| log_probability | no | {100 * weighed.between:.2f} |" in text


def test_no_signal_without_two_rows_of_two_seeds():
    assert signal("accuracy", {"a": {0: 0.5, 1: 0.6}, "b": {0: 0.5}}) is None
    found = signal("accuracy", {"a": {0: 0.5, 1: 0.7}, "b": {3: 0.1, 9: 0.3}, "c": {0: 0.9}})
    assert found.between == pytest.approx(statistics.stdev([0.6, 0.2]))
    assert found.within == pytest.approx(math.sqrt(0.02))


def test_a_task_without_the_endpoint_is_refused(study):
    other = dataclasses.replace(study, study=dataclasses.replace(study.study, endpoint="rouge_l"))
    with pytest.raises(InputError, match=r"endpoint is rouge_l, which task \w+ does not have"):
        make_plan(other, Request())
    with pytest.raises(InputError, match=f"known: {', '.join(ENDPOINTS)}"):
        Study(variants=(Variant("gatera"),), reference="gatera", endpoint="loss")


def test_clusters_of_one_size_count_by_their_means():
    table = np.random.default_rng(0).normal(size=(4, 12))
    labels = [f"fact {n % 4}" for n in range(12)]
    found = clustered(table, labels)
    expected = np.stack([table[:, n::4].mean(1) for n in range(4)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_clusters_keep_the_mean_and_widen_what_they_share():
    generator = np.random.default_rng(1)
    sizes = [1, 2, 9, 4, 12, 3, 7, 2, 5, 11]
    labels = [f"fact {n}" for n, size in enumerate(sizes) for _ in range(size)]
    shared = np.repeat(generator.normal(size=len(sizes)), sizes)
    table = shared + 0.1 * generator.normal(size=(6, len(labels)))
    found = clustered(table, labels)
    assert found.shape == (6, len(sizes))
    np.testing.assert_allclose(found.mean(1), table.mean(1), atol=1e-14)
    assert clustered(table, [str(n) for n in range(len(labels))]) is table

    def width(values):
        crossed = crossed_bootstrap({"a": values}, np.random.default_rng(0))
        return crossed.high - crossed.low

    assert width(found) > 1.5 * width(table)


def test_the_variance_over_clusters_is_that_of_drawn_clusters():
    """Against drawing whole clusters by hand and taking the mean over the drawn items."""
    generator = np.random.default_rng(2)
    sizes = generator.integers(1, 4, size=300)
    labels = np.repeat(np.arange(300), sizes)
    values = np.repeat(generator.normal(size=300), sizes) + 0.2 * generator.normal(size=len(labels))
    linear = clustered(values[None], [str(each) for each in labels])[0]
    sums = np.bincount(labels, values)
    drawn = generator.integers(300, size=(4000, 300))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    assert linear.std(ddof=1) / math.sqrt(300) == pytest.approx(means.std(), rel=0.05)


def test_scores_of_whole_tasks_stand_apart_with_their_notes(store, study):
    plan = make_plan(study, Request(seeds=2))
    store.write_plan(plan)
    task = plan.tasks[0]
    notes = {f"test/bleu/{task}": "sacrebleu 9", f"test/bert_f1/{task}": "no model"}
    for trial in plan.trials:
        value = SCORES[trial.variant] / 2 + 0.01 * trial.seed
        commit_result(
            store, trial, 0.5, metrics={f"test/bleu/{task}": value}, scoring={"notes": notes}
        )
    table = build_table(gather(store, plan))
    assert table.other_scores == (f"test/bert_f1/{task}", f"test/bleu/{task}")
    assert table.row("gatera").others[f"test/bleu/{task}"] == pytest.approx(0.38)
    text = markdown(table)
    assert f"| variant | bert_f1, {task} | bleu, {task} |" in text
    assert "| gatera | — | 38.00 |" in text
    assert text.count(f"- bert_f1 on {task}: no model") == 1


def test_published_scores_are_those_of_the_endpoint():
    whole = published_table("dialogue", "llama-3-8b")
    assert whole.averages["hira"] == 47.80
    by_rouge = whole.by_score("rouge_l")
    assert by_rouge.averages == {"lora": 11.77, "dora": 11.78, "mora": 11.19, "hira": 14.05}
    assert by_rouge.tasks == ("rouge_l",)
    assert whole.by_score("accuracy") == whole
    accuracy = published_table("commonsense")
    assert accuracy.by_score("accuracy") == accuracy


def test_a_study_has_settings_and_tasks_of_its_own_at_a_scale(study):
    at_tiny = {"data.tasks": ["world_easy"], "train.max_steps": 7}
    own = dataclasses.replace(
        study, study=dataclasses.replace(study.study, at_scale={"tiny": at_tiny})
    )
    plan = make_plan(own, Request())
    assert plan.tasks == ("world_easy",)
    assert plan.departures == {}
    assert plan.trials_of("gatera")[0].config["train"]["max_steps"] == 7
    asked = make_plan(own, Request(tasks=("world_hard",), overrides={"train.max_steps": 9}))
    assert asked.tasks == ("world_hard",)
    assert asked.trials_of("gatera")[0].config["train"]["max_steps"] == 9
    assert make_plan(study, Request()).tasks != plan.tasks
    with pytest.raises(InputError, match="at_scale names big; the scales are tiny, small, paper"):
        dataclasses.replace(study.study, at_scale={"big": {}})
