"""The configuration: what it accepts, what it refuses and in which words."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig, PeftType

from gatera import GateraConfig
from gatera.errors import InputError


def test_defaults_are_those_of_the_design() -> None:
    config = GateraConfig()
    assert (config.r, config.gate, config.delta, config.alpha) == (32, "token", "hira", None)
    assert (config.use_rslora, config.dropout, config.bias) == (False, 0.0, "none")
    assert (config.init_weights, config.fan_in_fan_out) == (True, False)
    assert (config.gate_bias, config.gate_init_std, config.gate_temperature) == (0.0, 0.02, 1.0)
    assert config.rank_pattern == {}
    assert config.alpha_pattern == {}
    assert str(config.peft_type) == "GateraPeftType.GATERA"
    assert config.peft_type == "GATERA"
    assert "GATERA" not in PeftType.__members__


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"gate": "tokn"},
            r"gate='tokn' is not known; choose one of: attention, .*, or your own",
        ),
        (
            {"delta": "lore"},
            r"delta='lore' is not known; choose one of: dora, hilora, hira, lora",
        ),
        ({"bias": "lora_only"}, r"bias=lora_only: expected one of none, all, gatera_only\."),
        ({"r": 0}, r"r=0: expected a whole number of at least 1\."),
        ({"rank_pattern": {"q_proj": -1}}, r'rank_pattern={"q_proj": -1}: expected a JSON object'),
        ({"r": 2.5}, r"r=2\.5: expected a whole number of at least 1\."),
        ({"r": "8"}, r'r="8": expected a whole number'),
        ({"r": True}, r"r=true: expected a whole number"),
        ({"gate_hidden": 1.5}, r"gate_hidden=1\.5: expected a whole number of at least 1\."),
        ({"gate_init_std": math.nan}, r"gate_init_std=NaN: expected a number of at least 0\."),
        ({"gate_bias": None}, r"gate_bias=null: expected a number\."),
        ({"gate_bias": math.inf}, r"gate_bias=Infinity: expected a number"),
        ({"gate_temperature": math.inf}, r"gate_temperature=Infinity: expected a number above 0"),
        ({"gate_threshold": math.nan}, r"gate_threshold=NaN: expected a number from 0 up to"),
        ({"delta": "lora", "alpha": math.nan}, r"alpha=NaN: expected a number or null"),
        ({"delta": "lora", "alpha_pattern": {"q": "8"}}, r'alpha_pattern={"q": "8"}: expected'),
        ({"dropout": 1.0}, r"dropout=1\.0: expected a number from 0 up to, but not including, 1\."),
        ({"gate_init_std": -0.1}, r"gate_init_std=-0\.1: expected a number of at least 0\."),
        ({"gate_temperature": 0.0}, r"gate_temperature=0\.0: expected a number above 0\."),
        (
            {"target_modules": "all-linear", "layers_to_transform": [0]},
            r"`layers_to_transform` cannot be used when `target_modules` is a str",
        ),
        (
            {"target_modules": ".*q_proj", "layers_pattern": "layers"},
            r"`layers_pattern` cannot be used when `target_modules` is a str",
        ),
    ],
)
def test_wrong_values_are_refused_with_what_was_expected(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        GateraConfig(**fields)


def test_lists_of_modules_become_sets() -> None:
    config = GateraConfig(target_modules=["a", "b", "a"], exclude_modules=["c"])
    assert config.target_modules == {"a", "b"}
    assert config.exclude_modules == {"c"}


def test_alpha_scales_additive_updates_only() -> None:
    assert GateraConfig(delta="lora").scaling(8, None) == 1.0
    assert GateraConfig(delta="lora").scaling(8, 4.0) == 0.5
    assert GateraConfig(delta="lora", use_rslora=True).scaling(16, 8.0) == 2.0
    with pytest.warns(UserWarning, match="delta='hira' is multiplicative and ignores them"):
        config = GateraConfig(delta="hira", alpha=64)
    assert config.scaling(8, 64) == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GateraConfig(delta="lora", alpha=64)


def test_saved_and_loaded_configurations_are_equal(tmp_path: Path) -> None:
    config = GateraConfig(
        r=5, gate="static", delta="lora", alpha=2.5, target_modules=["q"], rank_pattern={"q": 3}
    )
    config.save_pretrained(str(tmp_path))
    loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, GateraConfig)
    assert loaded == config


def test_what_is_saved_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from gatera import GateraConfig;"
        "names = ['q_proj', 'k_proj', 'v_proj', 'up_proj', 'down_proj'];"
        "GateraConfig(target_modules=names, exclude_modules=names[2:]).save_pretrained(sys.argv[1])"
    )
    saved = set()
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, folder], env=environment, check=True)
        saved.add((folder / "adapter_config.json").read_text())
    assert len(saved) == 1
