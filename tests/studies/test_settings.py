import dataclasses

import pytest

from gatera.errors import InputError
from gatera.studies import settings


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
        ("train.max_steps=many", 'train.max_steps="many": expected a whole number or null'),
        ("train.max_steps=true", "train.max_steps=true: expected a whole number or null"),
        ("train.max_steps=1.5", "train.max_steps=1.5: expected a whole number or null"),
        ("train.learning_rate=NaN", "expected a number"),
        ("train.learning_rate=-1", "expected at least 0"),
        ("adapter.gate=tokens", "adapter.gate=tokens: expected one of token, static, none"),
        ("train.batch_size=0", "train.batch_size=0: expected at least 1"),
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


def test_every_default_is_a_known_setting_of_the_right_type():
    for scale in settings.SCALES:
        for section, fields in settings.scale_defaults(scale).items():
            for name, value in fields.items():
                if (section, name) != ("data", "tasks"):  # --tasks sets these
                    settings.apply_changes({}, {f"{section}.{name}": value})


def test_the_adapter_settings_are_fields_of_the_adapters_config():
    from gatera.adapter import GateraConfig

    fields = {field.name for field in dataclasses.fields(GateraConfig)}
    adapter = {name.partition(".")[2] for name in settings.FIELDS if name.startswith("adapter.")}
    assert adapter <= fields


def test_the_choices_are_those_of_the_adapter():
    from gatera.adapter.gates import GATES
    from gatera.adapter.sharing import SHARINGS
    from gatera.adapter.updates import DELTAS
    from gatera.adapter.updates.base import MORA_TYPES

    known = {"gate": GATES, "delta": DELTAS, "gate_sharing": SHARINGS, "mora_type": MORA_TYPES}
    for name, values in known.items():
        assert set(settings.CHOICES[f"adapter.{name}"]) == set(values)


def test_the_training_settings_are_exactly_those_that_a_trial_reads():
    from gatera.training.settings import EvalSettings, TrainSettings

    for section, read in (("train", TrainSettings), ("eval", EvalSettings)):
        known = {n.partition(".")[2] for n in settings.FIELDS if n.startswith(f"{section}.")}
        assert known == {field.name for field in dataclasses.fields(read)}


def test_the_world_tasks_are_those_of_the_embedded_scale():
    from gatera.tasks import commonsense, tiny

    assert settings.SCALES["tiny"]["data"]["tasks"] == list(tiny.FAMILIES)
    assert list(settings.COMMONSENSE) == list(commonsense.BENCHMARKS)
