"""Registration with PEFT, light imports, and saved adapters in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from transformers import LlamaForCausalLM

import gatera
from gatera import GateraConfig, GateraModel
from gatera.adapter.peft_plugin import register

MakeLlama = Callable[[], LlamaForCausalLM]


def run(code: str) -> str:
    """Run code in a fresh process, offline, and return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light_until_a_name_is_touched() -> None:
    code = """
import sys
import gatera
heavy = {"torch", "peft", "transformers", "gatera.adapter"}
print(sorted(heavy & set(sys.modules)))
assert "GateraConfig" in dir(gatera)
gatera.GateraConfig
print(sorted(heavy & set(sys.modules)))
from peft import PEFT_TYPE_TO_CONFIG_MAPPING
print("GATERA" in PEFT_TYPE_TO_CONFIG_MAPPING)
"""
    assert run(code).splitlines() == [
        "[]",
        "['gatera.adapter', 'peft', 'torch', 'transformers']",
        "True",
    ]


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'gatera' has no attribute 'GateConfig'"):
        gatera.GateConfig  # noqa: B018


def test_the_method_is_in_all_of_pefts_tables() -> None:
    register()
    assert PEFT_TYPE_TO_CONFIG_MAPPING["GATERA"] is GateraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["GATERA"] is GateraModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING["GATERA"] == "gatera_"


def test_a_name_taken_by_another_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign:
        __module__ = "someone.config"

    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, "GATERA", Foreign)
    with pytest.raises(ImportError, match=r"GATERA is registered already, by someone\.config"):
        register()


def test_saved_adapters_load_in_a_fresh_process(llama: MakeLlama, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    ids = torch.arange(3, 13)[None]
    expected = {}
    for gate in ("token", "static", "none"):
        for delta in ("hira", "lora"):
            fields = {"gate": gate, "delta": delta, "target_modules": ["q_proj", "up_proj"]}
            config = GateraConfig(r=3, init_weights=False, **fields)
            model = get_peft_model(llama(), config).eval()
            expected[f"{gate}-{delta}"] = model(ids).logits.detach()
            model.save_pretrained(str(tmp_path / f"{gate}-{delta}"))
    assert len({logits.sum().item() for logits in expected.values()}) == 6
    torch.save(expected, tmp_path / "expected.pt")
    code = f"""
import torch, warnings
warnings.simplefilter("ignore")
import peft
assert "GATERA" not in peft.PEFT_TYPE_TO_CONFIG_MAPPING
import gatera  # alone, since peft is imported already
from peft import PeftConfig, PeftModel
from transformers import LlamaForCausalLM
folder, ids = {str(tmp_path)!r}, torch.arange(3, 13)[None]
for name, expected in torch.load(folder + "/expected.pt").items():
    saved = folder + "/" + name
    assert type(PeftConfig.from_pretrained(saved)).__name__ == "GateraConfig"
    base = LlamaForCausalLM.from_pretrained(folder + "/base").eval()
    for low in (False, True):
        model = PeftModel.from_pretrained(base, saved, low_cpu_mem_usage=low).eval()
        print(torch.equal(model(ids).logits, expected))
        base = model.unload()
    base.load_adapter(saved, adapter_name="again")
    print(torch.equal(base.eval()(ids).logits, expected))
"""
    assert run(code).split() == ["True"] * 18


def test_saved_names_hold_no_adapter_name_and_load_under_another(
    llama: MakeLlama, tmp_path: Path
) -> None:
    config = GateraConfig(r=3, init_weights=False, target_modules=["q_proj"])
    model = get_peft_model(llama(), config, adapter_name="first").eval()
    state = get_peft_model_state_dict(model, adapter_name="first")
    prefix = "base_model.model.model.layers.1.self_attn.q_proj.gatera_"
    assert {n for n in state if n.startswith(prefix)} == {
        f"{prefix}{name}" for name in ("A", "B", "gate.weight", "gate.bias")
    }
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path / "first"), adapter_name="gate").eval()
    ids = torch.arange(3, 13)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_model_card_says_what_to_import_once(llama: MakeLlama, tmp_path: Path) -> None:
    model = get_peft_model(llama(), GateraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("other", GateraConfig(r=2, gate="static", target_modules=["q_proj"]))
    for _ in range(2):
        model.save_pretrained(str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert card.count("import gatera") == 1
    assert not (tmp_path / "other" / "README.md").exists()
    saved = json.loads((tmp_path / "other" / "adapter_config.json").read_text())
    assert saved["peft_type"] == "GATERA"


@pytest.mark.parametrize("above", ["# My project\n", "---\nlibrary_name: peft\n---\n"])
def test_a_readme_above_the_adapters_folder_is_left_alone(tmp_path: Path, above: str) -> None:
    (tmp_path / "README.md").write_text(above)
    GateraConfig(target_modules=["q"]).save_pretrained(str(tmp_path / "adapter"))
    assert (tmp_path / "README.md").read_text() == above


def test_a_readme_beside_the_adapter_that_peft_did_not_write_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My project\n")
    GateraConfig(target_modules=["q"]).save_pretrained(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_model_status_names_the_method(llama: MakeLlama) -> None:
    model = get_peft_model(llama(), GateraConfig(r=2, target_modules=["q_proj"]))
    status = model.get_model_status()
    assert status.peft_types == {"default": "GATERA"}
    assert status.num_adapter_layers == 2
    assert status.trainable_params == 2 * (2 * 24 + 2 * 24 + 25)
