"""What a plan would cost on a GPU, beside sums made here from the same counts."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from gatera import cli
from gatera.studies.catalog import load
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.gpu_cost import Gpu, described, gpu_cost, gpu_line

# A card of 3 units of each rate, so that a third of its peak is 1 a second.
UNIT = Gpu("unit", 3.0, 3.0)
COUNTS = {
    "forward_flops": 2.0,
    "training_flops": 5.0,
    "attention_flops": 0.01,
    "pass_flops": 7.0,
    "weight_bytes": 1000,
    "read_bytes": 900.0,
    "trained_bytes": 50,
    "kept_bytes": 3.0,
    "logits_bytes": 4.0,
    "loss_tokens": 10**6,
}


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.setenv("GATERA_DATA_ROOT", "")

    def plan_of(study, scale="paper", tasks=None, **overrides):
        request = Request(scale=scale, tasks=tasks, overrides=overrides)
        return make_plan(load(study), request, strict=False)

    return plan_of


def cost_of(plan, **counts):
    return gpu_cost(plan, {name: {**COUNTS, **counts} for name in plan.changes}, UNIT)


def test_a_trial_costs_its_training_and_its_scoring(planned):
    plan = planned("math_table3", **{"eval.limit": 100})
    cost = cost_of(plan).of_rows["gatera"]
    steps = math.ceil(2 * 395_000 / 32)
    tokens = (420 + 700) / 4
    training = steps * (32 * tokens * (5.0 + 4 * 0.01 * tokens) + 7.0)
    training += steps // 80 * 120 * tokens * (2.0 + 0.01 * tokens)  # validations
    assert cost.training_seconds == pytest.approx(training)
    prompt = 380 / 4  # an answer of GSM8K has no options: it is read once
    scoring = 100 * prompt * (2.0 + 0.01 * prompt)
    step = max(16 * 4 * 2.0, 900.0)  # reading the weights takes longer than 64 sequences
    assert plan.trials_of("gatera")[0].config["eval"]["max_new_tokens"] == 32
    written = 256  # as many as its solutions may have
    assert cost.scoring_seconds == pytest.approx(scoring + 7 * written * step)
    assert cost.memory_bytes == 1000 + 50 + 32 * 512 * (3.0 + 4.0)
    in_parts = cost_of(plan, loss_tokens=130).of_rows["gatera"]
    assert in_parts.memory_bytes == 1000 + 50 + 32 * 512 * 3.0 + 130 * 4.0
    assert cost_of(plan).of_rows["frozen"].training_seconds == 0


def test_options_are_read_twice_and_a_choice_writes_nothing(planned):
    overrides = {"eval.max_new_tokens": 1, "eval.batch_size": 3270}
    prompt = 278 / 4
    reading = 3270 * prompt * (2.0 + 0.01 * prompt)
    plan = planned("ablation_table5", tasks=("boolq",), **overrides)
    computing = 3270 * 4 * 2.0  # of one token for 4 beams of each item, beyond reading weights
    assert cost_of(plan).of_rows["gatera"].scoring_seconds == pytest.approx(2 * reading + computing)
    plan = planned("ablation_table5", tasks=("boolq",), **overrides, **{"eval.method": "choice"})
    assert cost_of(plan).of_rows["gatera"].scoring_seconds == pytest.approx(reading)


def test_weights_that_rows_share_are_trained_once(planned):
    plan = planned("hard_gates")
    cost = cost_of(plan)
    of_row = cost.of_rows["gatera"]
    keys = {t.training_key for t in plan.trials if not t.is_frozen}
    assert len(keys) == 30 < len(plan.trials) == 56  # five rows train, of which five others score
    seconds = 30 * of_row.training_seconds + 56 * of_row.scoring_seconds
    assert cost.hours == pytest.approx(seconds / 3600)


def test_tuning_trials_count_by_their_own_steps(planned):
    of_one = {"tuning.trials": 4, "tuning.seeds": 2}
    with_steps = cost_of(planned("tuned_table5", **of_one, **{"tuning.steps": 160}))
    without = cost_of(planned("tuned_table5", **of_one, **{"tuning.steps": 80}))
    tokens = 480 / 4
    steps_more = 80 * (32 * tokens * (5.0 + 4 * 0.01 * tokens) + 7.0)
    # One validation, which writes its answers: 8 batches of 32 tokens, each reads the weights once.
    steps_more += 120 * tokens * (2.0 + 0.01 * tokens) + 8 * 32 * 900.0
    rows = len(planned("tuned_table5").tuning.rows)
    assert with_steps.hours - without.hours == pytest.approx(rows * 8 * steps_more / 3600)


def test_an_embedded_scale_has_no_cost_on_a_gpu(planned):
    assert cost_of(planned("ablation_table5", scale="tiny")) is None
    assert described(None) is None


@pytest.mark.parametrize("study", ["ablation_table5", "dialogue_table2", "multilingual"])
def test_every_split_that_the_studies_read_has_a_size(planned, study):
    cost = cost_of(planned(study))
    assert cost.hours > 0
    said = described(cost)
    assert f"{said['hours']:,.1f} hours of one unit" in gpu_line(said)
    assert ("assumed" in gpu_line(said)) == (study != "multilingual")


def test_plan_prints_hours_and_memory_without_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATERA_DATA_ROOT", "")
    arguments = ["plan", "ablation_table5", "--scale", "paper"]
    assert cli.main([*arguments, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    of_plan, of_row = answer["estimate"]["gpu"], answer["variants"]["gatera"]["gpu"]
    assert of_plan["memory_gib"] == of_row["memory_gib"] < 80
    assert 2 < of_row["hours"] < 10 < of_plan["hours"] < 200
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().out
    assert f"{of_row['hours']:.2f} h, {of_row['memory_gib']:.0f} GiB" in shown
    assert "computed and not measured" in shown


def test_the_largest_row_decides_the_memory(planned):
    plan = planned("ablation_table5")
    counts = dict.fromkeys(plan.changes, COUNTS)
    counts["hira"] = {**COUNTS, "trained_bytes": 10_000_000}
    cost = gpu_cost(plan, counts, UNIT)
    assert cost.memory_bytes == cost.of_rows["hira"].memory_bytes
    assert dataclasses.asdict(UNIT)["name"] == cost.gpu
