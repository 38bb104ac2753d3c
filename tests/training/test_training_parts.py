"""Settings, scoring, provenance and gates, each alone."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gatera.training.settings import EvalSettings, TrainSettings

from gatera.errors import InputError
from gatera.tasks.example import Example, content_hash
from gatera.tasks.mixture import Item
from gatera.training import provenance, scoring
from gatera.training.checkpoints import Best
from gatera.training.scoring import Prediction


@pytest.fixture
def settings(make_trial: Any) -> TrainSettings:
    return TrainSettings.from_config(make_trial().config["train"])


def test_the_rate_warms_up_then_falls_to_zero(settings: TrainSettings) -> None:
    linear = dataclasses.replace(settings, warmup_steps=4)
    factors = [linear.learning_rate_factor(step, 10) for step in range(11)]
    assert factors == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0]
    )
    cosine = dataclasses.replace(linear, schedule="cosine")
    assert cosine.learning_rate_factor(7, 10) == pytest.approx(0.5)
    assert cosine.learning_rate_factor(10, 10) == pytest.approx(0.0)
    constant = dataclasses.replace(linear, schedule="constant")
    assert [constant.learning_rate_factor(step, 10) for step in (3, 9)] == [1.0, 1.0]


def test_warm_up_is_a_tenth_of_the_steps_and_at_most_a_hundred(settings: TrainSettings) -> None:
    assert settings.learning_rate_factor(0, 50) == pytest.approx(1 / 5)
    assert settings.learning_rate_factor(0, 5000) == pytest.approx(1 / 100)


def test_steps_are_the_smaller_of_both_limits(settings: TrainSettings) -> None:
    assert settings.total_steps(steps_in_epoch=3) == 8
    assert dataclasses.replace(settings, epochs=2).total_steps(steps_in_epoch=3) == 6
    assert dataclasses.replace(settings, max_steps=None, epochs=5).total_steps(3) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "step"}, "train.schedule='step' is unknown; expected one of linear"),
        ({"loss_mask": "none"}, "train.loss_mask='none' is unknown; expected one of answer, all"),
        ({"batch_size": 0}, "train.batch_size=0; expected at least 1"),
        ({"accumulation": 3}, "batch_size=8 cannot be split into train.accumulation=3"),
        ({"max_steps": None}, "train.max_steps and train.epochs are both null"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: TrainSettings, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(settings, **changes)


def test_fields_of_a_section_are_told_when_missing(make_trial: Any) -> None:
    section = dict(make_trial().config["eval"])
    del section["beams"]
    with pytest.raises(InputError, match="missing in the section 'eval': beams; its fields are ba"):
        EvalSettings.from_config(section)


def test_better_is_more_accurate_then_less_loss_then_earlier() -> None:
    best = Best(4, 0.5, 1.0, {})
    assert Best(8, 0.6, 2.0, {}).is_better_than(best)
    assert Best(8, 0.5, 0.9, {}).is_better_than(best)
    assert not Best(8, 0.5, 1.0, {}).is_better_than(best)
    assert not Best(8, 0.4, 0.1, {}).is_better_than(best)
    assert best.is_better_than(None)


def items(count: int) -> list[Item]:
    return [Item("boolq", Example(f"q{n}", "", "it is true", "true")) for n in range(count)]


def test_a_cut_test_set_is_the_first_by_hash_in_file_order() -> None:
    all_items = items(30)
    chosen = scoring.first_by_hash(all_items, 7)
    hashes = sorted(content_hash(item.example) for item in all_items)
    assert {content_hash(all_items[place].example) for place in chosen} == set(hashes[:7])
    assert chosen == sorted(chosen)
    assert scoring.first_by_hash(all_items, None) == list(range(30))
    assert scoring.first_by_hash(all_items, 31) == list(range(30))


def test_outputs_without_keyword_count_as_wrong() -> None:
    predictions = [
        Prediction("boolq", 0, "true", "true", "true", True),
        Prediction("boolq", 1, "hm", None, "true", False),
        Prediction("boolq", 2, "false", "false", "true", False),
    ]
    assert scoring.accuracy(predictions) == pytest.approx(1 / 3)
    assert scoring.share_without_keyword(predictions) == pytest.approx(1 / 3)


def test_the_code_hash_follows_the_decisive_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("adapter", "backbones", "tasks", "training", "studies"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(folder)
    (tmp_path / "trial.py").write_text("trial")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)

    def code_hash() -> str:
        return provenance.code_sha256.__wrapped__()

    first = code_hash()
    (tmp_path / "studies" / "a.py").write_text("changed")
    (tmp_path / "adapter" / "__pycache__").mkdir()
    (tmp_path / "adapter" / "__pycache__" / "a.pyc").write_text("compiled")
    assert code_hash() == first
    (tmp_path / "adapter" / "weights.safetensors").write_bytes(b"1")
    assert code_hash() != first
    assert provenance.source_state() == (None, None)


def test_light_imports_load_no_torch() -> None:
    code = (
        "import sys, gatera.tasks, gatera.backbones, gatera.training, gatera.training.provenance;"
        "print(sorted({'torch', 'transformers', 'peft', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_codes_hash_is_taken_where_the_code_is_loaded() -> None:
    # A process that was forked from one that loaded it computes with that code, not with the files
    # as they are by then.
    program = (
        "import gatera.training.fitting; from gatera.training import provenance; "
        "print(provenance.code_sha256.cache_info().currsize)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "1"
