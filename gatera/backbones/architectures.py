"""Backbones as bare architectures on the meta device, to count parameters without weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from gatera.backbones import hub, tiny

LLAMA_2_7B = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
)

LLAMA_3_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)

SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    tie_word_embeddings=True,
)

_BY_NAME = {"llama-2-7b": LLAMA_2_7B, "llama-3-8b": LLAMA_3_8B, "smollm2": SMOLLM2_135M}


def on_meta(name: str) -> Any:
    """Return a backbone's model on the meta device.

    Args:
        name: A known name (see `gatera.backbones.NAMES`).

    Raises:
        InputError: the hub does not give the configuration.
    """
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_configuration(name))


def _configuration(name: str) -> Any:
    if name == "tiny":
        return AutoConfig.from_pretrained(tiny.WEIGHTS)
    return _BY_NAME.get(name) or hub.configuration(name.removeprefix("hub:"))
