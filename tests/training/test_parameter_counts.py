"""Parameter counts on the meta device."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from gatera.studies.planning.configuration import scale_defaults
from gatera.training import parameter_counts

MODULES = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


def resolved(backbone: str, **adapter: Any) -> dict[str, Any]:
    """Return a configuration with every field, as a plan has it."""
    config = scale_defaults("paper")
    section = {**config["adapter"], "target_modules": MODULES, **adapter}
    return {**config, "backbone": {"name": backbone}, "adapter": section}


def ask(monkeypatch: pytest.MonkeyPatch, capsys: Any, configs: list[Any]) -> tuple[int, Any]:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"configs": configs})))
    status = parameter_counts.main()
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("backbone", "adapter", "percent"),
    [
        ("llama-3-8b", {"gate": "none", "delta": "lora"}, "0.7002"),
        ("llama-3-8b", {"gate": "none"}, "0.7002"),
        ("llama-3-8b", {}, "0.7123"),
        ("llama-3-8b", {"gate": "none", "r": 16}, "0.3513"),
        ("llama-2-7b", {"gate": "none"}, "0.8256"),
        ("llama-2-7b", {}, "0.8384"),
        ("llama-2-7b", {"gate": "none", "r": 16}, "0.4145"),  # 0.4128 in print, half of 0.8256
    ],
)
def test_shares_are_those_of_the_paper(
    backbone: str, adapter: dict[str, Any], percent: str
) -> None:
    counted = parameter_counts.describe(resolved(backbone, **adapter))
    assert f"{counted['trainable_percent']:.4f}" == percent


def test_a_token_gate_costs_one_row_and_a_bias_a_layer() -> None:
    config = resolved("llama-3-8b", target_modules=["q_proj"])
    ungated = resolved("llama-3-8b", target_modules=["q_proj"], gate="none")
    gate = (
        parameter_counts.describe(config)["trainable_parameters"]
        - parameter_counts.describe(ungated)["trainable_parameters"]
    )
    assert gate == 32 * 4097


def test_requests_are_answered_in_order_and_the_frozen_backbone_trains_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    frozen = {**resolved("smollm2"), "adapter": {"method": "frozen"}, "train": {"dtype": "float32"}}
    configs = [frozen, resolved("smollm2", r=2, target_modules=["k_proj"])]
    status, answer = ask(monkeypatch, capsys, configs)
    assert status == 0
    assert answer[0].pop("computation")["weight_bytes"] == 4 * 134_515_008
    assert answer[0] == {
        "trainable_parameters": 0,
        "all_parameters": 134_515_008,
        "trainable_percent": 0.0,
    }
    assert answer[1]["trainable_parameters"] == 30 * (2 * (576 + 192) + 577)


def test_what_cannot_be_built_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    config = resolved("smollm2", target_modules=["q_proj", "fc1"])
    status, answer = ask(monkeypatch, capsys, [config])
    assert status == 2
    assert answer == {
        "error": "adapter.target_modules names fc1, which this model does not have; its linear "
        "modules are down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj."
    }
    status, answer = ask(
        monkeypatch, capsys, [{**config, "adapter": {"method": "gatera", "rank": 2}}]
    )
    assert status == 2
    assert "rank" in answer["error"]
