"""Small models for the adapter's tests, built once and copied."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

collect_ignore = [] if "GATERA_PEFT_TESTS" in os.environ else ["test_adapter_in_peft.py"]


@pytest.fixture(autouse=True)
def _one_thread_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def llama(_llama: LlamaForCausalLM) -> Callable[[], LlamaForCausalLM]:
    """Makes fresh copies of one LLaMA with 2 blocks, d = 24, random weights."""
    return lambda: copy.deepcopy(_llama)


@pytest.fixture(scope="session")
def _gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=61, n_embd=24, n_layer=2, n_head=4, n_positions=64)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def gpt2(_gpt2: GPT2LMHeadModel) -> Callable[[], GPT2LMHeadModel]:
    """Makes fresh copies of one GPT-2, whose projections are Conv1D and whose head is tied."""
    return lambda: copy.deepcopy(_gpt2)
