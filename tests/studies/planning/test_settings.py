import dataclasses

import pytest

from gatera.errors import InputError
from gatera.settings import SCALES, declared
from gatera.studies.planning import configuration as settings
from gatera.studies.planning.enumeration import Request, make_plan


def test_overrides_are_json_words_and_lists():
    parsed = settings.parse_overrides(
        [
            "train.max_steps=40",
            "eval.limit=null",
            "adapter.gate=none",
            "adapter.target_modules=up_proj, down_proj",
            'adapter.exclude_modules=["lm_head"]',
            "train.learning_rate=2e-3",
            "backbone.name=hub:some/model=1",
        ]
    )
    assert parsed == {
        "train.max_steps": 40,
        "eval.limit": None,
        "adapter.gate": "none",
        "adapter.target_modules": ["up_proj", "down_proj"],
        "adapter.exclude_modules": ["lm_head"],
        "train.learning_rate": 2e-3,
        "backbone.name": "hub:some/model=1",
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.max_steps", "has no '='"),
        ("train.max_step=3", "no setting 'train.max_step'; did you mean train.max_steps"),
        ("nothing.at_all=3", "no setting 'nothing.at_all'; known: backbone.name"),
        (
            "train.max_steps=many",
            'train.max_steps="many": expected a whole number of at least 1 or null',
        ),
        (
            "train.max_steps=true",
            "train.max_steps=true: expected a whole number of at least 1 or null",
        ),
        (
            "train.max_steps=1.5",
            "train.max_steps=1.5: expected a whole number of at least 1 or null",
        ),
        ("train.learning_rate=NaN", "expected a number"),
        ("train.learning_rate=-1", "expected a number of at least 0"),
        ("adapter.gate=tokens", "adapter.gate=tokens: expected one of token, static, none"),
        ("train.batch_size=0", "train.batch_size=0: expected a whole number of at least 1"),
    ],
)
def test_an_unusable_override_is_one_clear_message(setting, message):
    with pytest.raises(InputError, match=message):
        settings.parse_overrides([setting])


def test_applying_changes_leaves_the_original_alone():
    before = settings.scale_defaults("tiny")
    after = settings.apply_changes(before, {"adapter.gate": "none"})
    assert after["adapter"]["gate"] == "none"
    assert before["adapter"]["gate"] == "token"
    assert settings.scale_defaults("tiny") == before


def test_an_unknown_scale_lists_those_there_are():
    with pytest.raises(InputError, match="no scale 'huge'; there are tiny, small, paper"):
        settings.scale_defaults("huge")


def test_every_default_has_its_fields_type():
    for scale in SCALES:
        for section, fields in settings.scale_defaults(scale).items():
            for name, value in fields.items():
                setting = declared()[f"{section}.{name}"]
                assert setting.typed(value) == value


def test_the_adapters_tables_hold_what_the_settings_name():
    from gatera.adapter.gates import GATES
    from gatera.adapter.updates import DELTAS

    assert set(declared()["adapter.gate"].shape.choices) == set(GATES)
    assert set(declared()["adapter.delta"].shape.choices) == set(DELTAS)


def test_the_tasks_of_the_scales_are_all_choices_that_there_are_in_one_language():
    from gatera.tasks import world_families
    from gatera.tasks.benchmarks import commonsense

    choices = [task for task, family in world_families.FAMILIES.items() if family.keywords]
    assert [*settings.scale_defaults("tiny")["data"]["tasks"], "world_second"] == choices
    assert settings.scale_defaults("paper")["data"]["tasks"] == list(commonsense.BENCHMARKS)


def test_every_field_of_a_plan_is_listed_with_its_type_and_defaults(plan):
    listed = {each["name"]: each for each in settings.described()}
    for section, fields in plan.trials_of("gatera")[0].config.items():
        for name in fields:
            assert f"{section}.{name}" in listed
    assert listed["adapter.dropout"] == {
        "name": "adapter.dropout",
        "type": "number",
        "choices": None,
        "minimum": 0,
        "maximum": 1,
        "default": {"tiny": 0.0, "small": 0.0, "paper": 0.0},
        "meaning": "Dropout on the input of the update, never of the gate.",
    }
    assert listed["train.schedule"]["choices"] == ["linear", "cosine", "constant"]
    assert listed["eval.limit"]["type"] == "integer or null"


def test_all_fields_of_the_adapters_config_can_be_set():
    from gatera.adapter import GateraConfig
    from gatera.settings import GateraFields

    own = {field.name for field in dataclasses.fields(GateraFields)}
    assert own <= {field.name for field in dataclasses.fields(GateraConfig)}
    assert {f"adapter.{name}" for name in own} < set(declared())
    changed = settings.parse_overrides(
        ["adapter.init_weights=false", "adapter.modules_to_save=lm_head"]
    )
    assert changed == {"adapter.init_weights": False, "adapter.modules_to_save": ["lm_head"]}


@pytest.mark.parametrize("value", [0, 0.0, -0.0, None])
def test_a_number_has_one_key_however_it_is_written(study, plan, value):
    overrides = {} if value is None else {"adapter.dropout": value, "train.weight_decay": value}
    again = make_plan(study, Request(overrides=overrides))
    assert [trial.key for trial in again.trials] == [trial.key for trial in plan.trials]
    assert again.id == plan.id


def test_the_config_of_the_adapter_says_what_its_arguments_are():
    from gatera.adapter import GateraConfig

    assert "Args:\n    r (a whole number of at least 1): Rank" in GateraConfig.__doc__
    assert "\n    mora_type (one of rotate, share): " in GateraConfig.__doc__
