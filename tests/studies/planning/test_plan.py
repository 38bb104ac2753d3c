import dataclasses
import json
from pathlib import Path

import pytest
from made_up import commit_result

from gatera.errors import InputError
from gatera.reports.tables import measured_spread
from gatera.studies import Study, Variant
from gatera.studies.catalog import LoadedStudy
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan
from gatera.studies.views.forecast import expected_detectable_difference
from gatera.trial import Trial


def test_a_plan_enumerates_variants_by_seeds_and_one_frozen_trial(plan):
    trials = {(trial.variant, trial.seed) for trial in plan.trials}
    expected = {(v, s) for v in ("hira", "static_gate", "gatera") for s in (0, 1, 2)}
    assert trials == expected | {("frozen", 0)}
    assert len(plan.trials) == 10
    assert len({trial.key for trial in plan.trials}) == 10


def test_a_variant_differs_from_the_reference_in_its_declared_change_alone(plan):
    reference = plan.trials_of("gatera")[0].config
    hira = plan.trials_of("hira")[0].config
    assert hira["adapter"] == {**reference["adapter"], "gate": "none"}
    assert {k: v for k, v in hira.items() if k != "adapter"} == {
        k: v for k, v in reference.items() if k != "adapter"
    }


def test_rows_share_what_none_changes(plan):
    shared = plan.shared()
    assert shared["train.batch_size"] == 8
    assert shared["adapter.delta"] == "hira"
    assert "adapter.gate" not in shared
    assert shared.keys() < {f"{s}.{n}" for s, v in plan.trials[1].config.items() for n in v}


def test_a_declared_change_wins_over_set(study):
    request = Request(overrides={"adapter.gate": "static", "train.max_steps": 7})
    plan = make_plan(study, request)
    assert plan.trials_of("hira")[0].config["adapter"]["gate"] == "none"
    assert plan.trials_of("gatera")[0].config["adapter"]["gate"] == "static"
    assert plan.trials_of("hira")[0].config["train"]["max_steps"] == 7


def test_keys_depend_on_what_determines_a_result_and_on_nothing_else(plan):
    trial = plan.trials_of("gatera")[0]
    assert dataclasses.replace(trial, variant="another_name").key == trial.key
    assert dataclasses.replace(trial, seed=9).key != trial.key
    changed = {**trial.config, "train": {**trial.config["train"], "loss_mask": "all"}}
    assert dataclasses.replace(trial, config=changed).key != trial.key
    identities = {**trial.identities, "template": "another"}
    assert dataclasses.replace(trial, identities=identities).key != trial.key


def test_the_frozen_trial_depends_on_no_training_setting(study, plan):
    other = make_plan(study, Request(overrides={"train.learning_rate": 0.5, "adapter.r": 4}))
    assert other.trials_of("frozen")[0].key == plan.trials_of("frozen")[0].key
    assert other.trials_of("hira")[0].key != plan.trials_of("hira")[0].key


def test_studies_share_the_trials_that_are_equal(plan):
    again = Study((Variant("other"), Variant("ungated", {"adapter.gate": "none"})), "other")
    shared = make_plan(LoadedStudy("second", again, Path("second.py"), "x"), Request())
    assert {t.key for t in plan.trials_of("hira")} <= {t.key for t in shared.trials}


def test_a_plan_survives_json(plan):
    assert Plan.from_json(plan.to_json()) == plan


def test_what_the_seeds_of_a_row_share_stands_once(plan):
    told = json.loads(json.dumps(plan.to_json()))
    assert len(told["shared"]) == len(plan.changes) == 4
    assert [own.keys() for own in told["trials"]] == [
        {"key", "training_key", "variant", "seed", "shared"} for _ in plan.trials
    ]
    assert Plan.from_json(told) == plan
    assert Plan.from_json(told).to_json() == plan.to_json()
    told["shared"][1]["config"]["train"]["max_steps"] += 1
    with pytest.raises(ValueError, match="changed by hand"):
        Plan.from_json(told)


def test_a_seeds_keys_are_those_of_a_trial_made_alone(plan):
    for trial in plan.trials:
        alone = Trial(**{f.name: getattr(trial, f.name) for f in dataclasses.fields(trial)})
        assert (alone.key, alone.training_key) == (trial.key, trial.training_key)
        assert trial.with_seed(12).key == dataclasses.replace(alone, seed=12).key


def test_a_trial_changed_by_hand_is_noticed(plan):
    value = plan.trials[1].to_json()
    value["seed"] = 5
    with pytest.raises(ValueError, match="changed by hand or by another version"):
        Trial.from_json(value)


def test_a_departure_has_files_of_its_own(study, plan):
    assert plan.id == "made_up.tiny"
    cut = make_plan(study, Request(seeds=1, overrides={"train.max_steps": 2}))
    assert cut.id != plan.id
    assert cut.id.startswith("made_up.tiny.")
    assert len(cut.id.split(".")[-1]) == 8
    assert cut.departures == {"set": {"train.max_steps": 2}, "seeds": 1}


def test_asking_for_the_defaults_is_no_departure(study, plan):
    steps = plan.trials_of("gatera")[0].config["train"]["max_steps"]
    same = Request(
        seeds=3,
        tasks=plan.tasks,
        variants=("gatera", "hira", "static_gate", "frozen"),
        overrides={"train.max_steps": steps},
    )
    assert make_plan(study, same) == plan


def test_chosen_variants_keep_their_order_and_the_frozen_row(study):
    plan = make_plan(study, Request(variants=("gatera", "hira"), seeds=1))
    assert list(plan.changes) == ["frozen", "hira", "gatera"]
    with pytest.raises(InputError, match="no variant 'hirra'"):
        make_plan(study, Request(variants=("hirra",)))


def test_tasks_are_what_is_scored_and_not_what_is_trained_on(study):
    plan = make_plan(study, Request(tasks=("world_truth",)))
    data = plan.trials_of("gatera")[0].config["data"]
    assert data["tasks"] == ["world_truth"]
    assert len(data["train_tasks"]) == 8
    with pytest.raises(InputError, match="unknown task 'world_peace'"):
        make_plan(study, Request(tasks=("world_peace",)))


def test_missing_data_stops_a_run_and_not_a_look_at_the_plan(study, tmp_path):
    request = Request(scale="small", data_root=tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)):
        make_plan(study, request)
    plan = make_plan(study, request, strict=False)
    assert plan.trials[0].identities["data"]["boolq"]["test"] is None


def test_a_variant_with_an_unknown_field_is_named():
    stated = Study((Variant("a"), Variant("b", {"adapter.gait": "none"})), reference="a")
    with pytest.raises(InputError, match=r"study mine, variant b: no setting 'adapter.gait'"):
        make_plan(LoadedStudy("mine", stated, Path("mine.py"), "x"), Request())


def test_the_detectable_difference_rests_on_the_studys_own_spread_once_there_is_one(store, plan):
    assumed = expected_detectable_difference(plan)
    assert assumed["assumed_sd_over_seeds"] == 0.0077
    assert assumed["sd_of_differences"] == pytest.approx(0.0077 * 2**0.5)
    # Differences of hira: 0.1, 0.2, 0.3; of static_gate: 0.05, 0.05, 0.2. The median is the larger.
    scores = {"hira": [0.4, 0.5, 0.6], "static_gate": [0.35, 0.35, 0.5], "gatera": [0.3] * 3}
    for variant, found in scores.items():
        for trial, score in zip(plan.trials_of(variant), found, strict=True):
            commit_result(store, trial, score)
    spread = measured_spread(gather(store, plan))
    measured = expected_detectable_difference(plan, spread)
    assert measured["sd_of_differences"] == pytest.approx(0.1)
    assert measured["difference"] == pytest.approx(0.1 * 3.264, rel=1e-3)
    assert measured["assumed_sd_over_seeds"] is None
    assert measured["source"] == "measured on 3 seeds of this study"
    few = dataclasses.replace(spread, pairs=2)
    assert expected_detectable_difference(plan, few) == assumed


def test_a_row_may_be_the_frozen_backbone_under_another_name(store, study):
    rows = (Variant("as_it_was", {"adapter.method": "frozen"}), Variant("gatera"))
    stated = dataclasses.replace(study.study, variants=rows)
    plan = make_plan(dataclasses.replace(study, study=stated), Request())
    (trial,) = plan.trials_of("as_it_was")
    assert trial.key == plan.trials_of("frozen")[0].key
    assert plan.differing("as_it_was") == {}
    commit_result(store, trial, 0.25)
    commit_result(store, plan.trials_of("gatera")[0], 0.5)
    assert [row.variant for row in gather(store, plan).rows] == ["frozen", "as_it_was", "gatera"]
