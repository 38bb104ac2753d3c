"""A random model with a word tokenizer, and a data root of four invented tasks' files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gatera import backbones, tasks
from gatera.studies.planning.configuration import as_run, scale_defaults
from gatera.tasks.example import Example
from gatera.tasks.mixture import items_sha256, load_mixture, questions_also_tested
from gatera.tasks.prompts import render_prompt, template_identity
from gatera.trial import Trial

THINGS = ("sky", "grass", "snow", "coal", "sun", "rose", "sea", "sand", "night", "bone")
WORDS = ("is", "the", "green", "blue", "black", "white", "with", "near", "over", "under")


def boolq_record(number: int) -> dict[str, str]:
    """A question that its first word answers; distinct for every number below 1,000."""
    picks = [THINGS[number % 10], WORDS[number // 10 % 10], WORDS[number // 100 % 10]]
    answer = ("true", "false")[number % 2]
    return {
        "instruction": f"question {' '.join(picks)} ?\n\nAnswer format: true/false",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def write_records(root: Path, folder: str, train: list[Any], test: list[Any]) -> None:
    target = root / "commonsense" / folder
    target.mkdir(parents=True)
    (target / "train.json").write_text(json.dumps(train))
    (target / "test.json").write_text(json.dumps(test))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    numbers = list(range(400))
    random.Random(0).shuffle(numbers)
    records = [boolq_record(number) for number in numbers]
    write_records(root, "boolq", records[:330] + records[390:393], records[380:])
    return root


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    text = " ".join(
        render_prompt("alpaca", Example(**boolq_record(number))) + boolq_record(number)["output"]
        for number in range(400)
    )
    words = sorted({word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)})
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<eos>", "<pad>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=2,
        bos_token_id=None,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATERA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_trial(backbone_folder: Path, data_root: Path) -> Any:
    def make(seed: int = 3, adapter: Any = "default", **sections: dict[str, Any]) -> Trial:
        if adapter == "default":
            adapter = {"r": 3, "target_modules": ["q_proj", "down_proj"], "dropout": 0.1}
        config = scale_defaults("tiny")
        config["backbone"]["name"] = f"hub:{backbone_folder}"
        config["backbone"] |= sections.get("backbone", {})
        config["adapter"] |= {"method": "frozen"} if adapter is None else adapter
        config["train"] |= {
            "batch_size": 8,
            "max_steps": 8,
            "max_tokens": 64,
            "validation_every": 4,
            "checkpoint_every": 3,
            "validation_items": 7,
            "validation_max_new_tokens": 6,
            "validation_batch_size": 5,
            **sections.get("train", {}),
        }
        config["eval"] |= {
            "limit": 11,
            "max_new_tokens": 6,
            "batch_size": 5,
            "knowledge": None,
            **sections.get("eval", {}),
        }
        config["data"] |= {
            "template": "alpaca",
            "tasks": ["boolq"],
            "train_tasks": ["boolq"],
            **sections.get("data", {}),
        }
        train = config["train"]
        asked = questions_also_tested(["boolq"], config["data"]["tasks"], data_root)
        left_out = tuple(sorted({each for hashes in asked.values() for each in hashes}))
        mixture = load_mixture(["boolq"], train["validation_items"], data_root, left_out)
        identities = {
            "backbone": backbones.identity(config["backbone"]["name"]),
            "template": template_identity("alpaca"),
            "data": {
                "boolq": {
                    split: tasks.fingerprint("boolq", split, data_root)
                    for split in ("train", "test")
                }
            },
            "items": items_sha256(mixture),
        }
        return Trial("gatera", seed, as_run(config), identities, left_out=left_out)

    return make
