"""What an experiment tracker is given of a table: names that trackers take, and a description."""

import dataclasses

import pytest
from made_up import commit_result

from gatera.reports.forms.markdown import summary
from gatera.reports.forms.tracked import tracked as table_of
from gatera.reports.forms.tracked_trial import data_sets, scored_on, source_of
from gatera.reports.tables import build_table
from gatera.studies.gathering.gather import gather


@pytest.fixture
def record(store, plan):
    for trial in plan.trials:
        score = {"frozen": 0.2, "hira": 0.5, "static_gate": 0.625, "gatera": 0.75}[trial.variant]
        commit_result(store, trial, score + trial.seed / 100)
    return gather(store, plan)


def test_contrasts_stand_beside_rows_under_names_that_trackers_take(record):
    contrasts = {"gate | none/all": {"gatera": 1.0, "hira": -1.0}}
    shown = table_of(build_table(dataclasses.replace(record, contrasts=contrasts)))
    name = "contrasts/gate _ none_all"
    assert shown.metrics[f"{name}/difference"] == pytest.approx(0.25)
    assert shown.metrics["hira/difference"] == pytest.approx(-0.25)
    assert "hira/adjusted_p" not in shown.metrics  # the contrasts alone are tested
    assert "| contrast | seeds |" in shown.description


def test_a_description_that_is_too_long_ends_with_a_line(record):
    contrasts = {f"question {n:03}": {"gatera": 1.0, "hira": -1.0} for n in range(200)}
    table = build_table(dataclasses.replace(record, contrasts=contrasts))
    shown = table_of(table)
    *_, last, _, said = shown.description.split("\n")
    assert 7000 < len(shown.description) < 8000
    assert last in "\n".join(summary(table)).split("\n")
    assert said == "… (the report among the artifacts has all)"


def test_a_score_names_the_data_that_it_was_measured_on(plan):
    trial = plan.trials_of("gatera")[0]
    on = scored_on(trial, "test/accuracy/world_kin")
    assert (on.name, on.context) == ("world_kin", "test")
    assert on.sha256 == trial.identities["data"]["world_kin"]["test"]
    assert on in data_sets(trial)
    assert scored_on(trial, "test/accuracy") is None
    assert scored_on(trial, "train/loss") is None


def test_a_result_comes_from_the_commit_that_trained_it(store, plan):
    trial = plan.trials_of("gatera")[0]
    of = {"training": {"commit": "a" * 40, "dirty": True}, "scoring": {"commit": "b" * 40}}
    found = source_of(commit_result(store, trial, 0.5, **of))
    assert found == {"mlflow.source.git.commit": "a" * 40, "mlflow.source.git.dirty": "True"}
    assert source_of(commit_result(store, plan.trials_of("frozen")[0], 0.5)) == {}
