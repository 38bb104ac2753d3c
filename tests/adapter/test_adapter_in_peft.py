"""PEFT's own generic tests, from the sdist of the installed release, run against GateRA.

Collected by `tox -e peft` alone, which sets GATERA_PEFT_TESTS to the folder that the sdist was
unpacked in. PEFT's tests read lists of methods and models: ours take their place here, and of each
class the tests are kept that read one of these lists.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gatera import GateraConfig
from gatera.errors import InputError

TESTS = Path(os.environ["GATERA_PEFT_TESTS"]) / f"peft-{peft.__version__}" / "tests"

# Tests that cannot apply, and why.
CANNOT_APPLY: dict[str, str] = {
    **dict.fromkeys(
        (
            "test_from_pretrained",
            "test_from_pretrained_cache_dir",
            "test_save_pretrained_with_runtime_config",
        ),
        "reads a LoRA checkpoint from the hub",
    ),
}
UNMERGEABLE = "cannot be merged: its gate"  # what merging says of gates that depend on the input


def package(name: str, folder: Path) -> None:
    """Make a folder without an `__init__` a package of that name."""
    made = ModuleType(name)
    made.__path__ = [str(folder)]
    sys.modules[name] = made


@contextmanager
def stand_ins(**attributes: str) -> Iterator[None]:
    """Stand in for libraries that PEFT's tests import, and none of those here uses."""
    missing = [name for name in attributes if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
        setattr(sys.modules[name], attributes[name], type(attributes[name], (), {}))
    yield
    for name in missing:  # others ask whether they are there
        del sys.modules[name]


def tiny_llama(folder: Path) -> Path:
    """Save a random LLaMA and return where."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


assert TESTS.is_dir(), f"there are no tests of PEFT {peft.__version__} in {TESTS}"
package("peft_tests", TESTS)
importlib.import_module("accelerate.test_utils.testing")
with stand_ins(diffusers="StableDiffusionPipeline", datasets="load_dataset"):
    custom: Any = importlib.import_module("peft_tests.test_custom_models")
    decoder: Any = importlib.import_module("peft_tests.test_decoder_models")
    config: Any = importlib.import_module("peft_tests.test_config")

custom.HiraConfig = GateraConfig  # they choose learning rates by it: HiRA's steps are small

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("token HiRA", {}),
    ("ungated HiRA", {"gate": "none"}),
    ("static HiRA", {"gate": "static"}),
    ("token LoRA", {"delta": "lora"}),
    ("ungated LoRA", {"delta": "lora", "gate": "none"}),
    ("static DoRA", {"delta": "dora", "gate": "static"}),
)
LAYERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("MLP", {"target_modules": "lin0"}),
    ("MLP", {"target_modules": ["lin0"]}),
    ("MLP", {"target_modules": ["lin1"]}),
    ("MLP", {"target_modules": ["lin0", "lin1"]}),
    ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("MLP", {"target_modules": ["lin0"], "dropout": 0.1}),
    ("EmbConv1D", {"target_modules": ["conv1d"]}),
)
SCRATCH = tempfile.TemporaryDirectory()
LLAMA = tiny_llama(Path(SCRATCH.name, "tiny-random-LlamaForCausalLM"))
BOTH = {"target_modules": ["lin0"], "init_weights": False}
OTHER = {"target_modules": ["lin1"], "init_weights": False}

CASES: tuple[tuple[Any, list[Any]], ...] = (
    (
        custom.TEST_CASES,
        [
            (f"{model} {number} {name}", model, GateraConfig, {**fields, **layers})
            for name, fields in METHODS
            for number, (model, layers) in enumerate(LAYERS)
        ],
    ),
    (
        custom.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES,
        [
            (f"{name} {place}", "gatera", GateraConfig, {**fields, **BOTH}, {**fields, **second})
            for name, fields in METHODS
            for place, second in (("Same", BOTH), ("Different", OTHER))
        ],
    ),
    (
        custom.MIXED_ADAPTER_TEST_CASES,
        [
            (name, GateraConfig(**fields, **BOTH), GateraConfig(**{**fields, **BOTH, "r": 16}))
            for name, fields in METHODS
        ],
    ),
    (custom.ALL_PEFT_CONFIG_CLASSES, [GateraConfig]),
    (decoder.PEFT_DECODER_MODELS_TO_TEST, [pytest.param(str(LLAMA), id=LLAMA.name)]),
    (
        decoder.ALL_CONFIGS,
        [
            (GateraConfig, {"task_type": "CAUSAL_LM", "target_modules": None, **fields})
            for _, fields in METHODS
        ],
    ),
    (config.ALL_CONFIG_CLASSES, [(GateraConfig, fields) for _, fields in METHODS]),
    (config.LAYER_INDEXING_CONFIG_CLASSES, [(GateraConfig, fields) for _, fields in METHODS]),
)


def generic(tests: type) -> type:
    """Return a class of PEFT's with the tests alone that read one of its lists, which is ours."""
    kept: dict[str, Any] = {}
    for name, test in inspect.getmembers(tests, inspect.isfunction):
        marks = getattr(test, "pytestmark", [])
        if not name.startswith("test"):
            continue
        if name in CANNOT_APPLY or not any(ours(mark) for mark in marks):
            kept[name] = None
            continue
        kept[name] = without_refused_merges(test)
        kept[name].pytestmark = [ours(mark) or mark for mark in marks]
    return type(tests.__name__, (tests,), kept)


def without_refused_merges(test: Callable[..., None]) -> Callable[..., None]:
    """Return a test that is skipped where it merges an adapter that no weight can stand for."""

    @functools.wraps(test)
    def tried(*args: Any, **kwargs: Any) -> None:
        try:
            test(*args, **kwargs)
        except InputError as error:
            if UNMERGEABLE not in str(error):
                raise
            pytest.skip("merges a gate that depends on the input, which is refused")

    return tried


def ours(mark: pytest.Mark) -> pytest.Mark | None:
    """Return a mark with our cases in the place of PEFT's; None where it has no list of them."""
    if mark.name != "parametrize":
        return None
    for theirs, cases in CASES:
        if mark.args[1] is theirs:
            return pytest.mark.parametrize(mark.args[0], cases, **mark.kwargs).mark
    return None


TestPeftCustomModel = generic(custom.TestPeftCustomModel)
TestMultipleActiveAdapters = generic(custom.TestMultipleActiveAdapters)
TestMixedAdapterBatches = generic(custom.TestMixedAdapterBatches)
TestDecoderModels = generic(decoder.TestDecoderModels)
TestPeftConfig = generic(config.TestPeftConfig)
