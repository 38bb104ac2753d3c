"""The loss in parts against its equation in float64, and what it keeps for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from gatera import GateraConfig, record_gates
from gatera.training.evaluation import likelihood
from gatera.training.evaluation.likelihood import token_loss
from gatera.training.logits import IGNORED

VOCABULARY, WIDTH = 31, 16
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
LENGTHS = ((5, 3), (11, 1), (2, 10), (7, 4))  # tokens of prompt and response: unequal, two digits


def make_batch() -> dict[str, Tensor]:
    """Return a left-padded batch whose responses are learned."""
    generator = torch.Generator().manual_seed(0)
    longest = max(prompt + response for prompt, response in LENGTHS)
    ids = torch.randint(3, VOCABULARY, (len(LENGTHS), longest), generator=generator)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (prompt, response) in enumerate(LENGTHS):
        mask[row, longest - prompt - response :] = 1
        labels[row, longest - response :] = ids[row, longest - response :]
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def llama(**sizes: Any) -> Any:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SIZES | sizes)).double()


def adapted(base: Any) -> Any:
    """Return a model whose gated update is far from zero."""
    torch.manual_seed(2)
    config = GateraConfig(r=4, target_modules=["q_proj", "v_proj"], init_weights=False)
    return get_peft_model(base, config).double()


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compute every loss in parts of two tokens; the list has how many tokens each loss had."""
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 2 * VOCABULARY)
    seen: list[int] = []
    whole = likelihood._in_parts

    def noted(hidden: Tensor, *rest: Any) -> Tensor:
        seen.append(len(hidden))
        return whole(hidden, *rest)

    monkeypatch.setattr(likelihood, "_in_parts", noted)
    return seen


def reference(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss as its equation has it, from rows of their own and without padding."""
    losses = []
    for ids, mask, labels in zip(*batch.values(), strict=True):
        row = ids[mask.bool()]
        logits = model(row[None], use_cache=False).logits[0]
        first = len(row) - int((labels != IGNORED).sum())
        for place in range(first, len(row)):
            scores = logits[place - 1]
            losses.append(scores.exp().sum().log() - scores[row[place]])
    return torch.stack(losses).mean()


def gradients(loss: Tensor, model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


MODELS: dict[str, Callable[[], Any]] = {
    "plain": lambda: adapted(llama()),
    "tied": lambda: adapted(llama(tie_word_embeddings=True)),
    "with a bias": lambda: adapted(PhiForCausalLM(PhiConfig(**SIZES)).double()),
}


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_in_parts_are_those_of_the_equation(
    name: str, in_parts: list[int]
) -> None:
    model, batch = MODELS[name]().eval(), make_batch()
    if name == "with a bias":
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    loss = token_loss(model, batch)
    assert in_parts == [18]  # learned tokens
    expected = reference(model, batch)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    found, wanted = gradients(loss, model), gradients(expected, model)
    assert found.keys() == wanted.keys() != set()
    for parameter, gradient in wanted.items():
        assert float(gradient.abs().max()) > 0
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-12)


def test_gates_are_recorded_once_and_share_the_backward_pass(in_parts: list[int]) -> None:
    model, batch = adapted(llama()).eval(), make_batch()
    with record_gates(model, batch["attention_mask"]) as gates:
        loss = token_loss(model, batch)
    entropy = gates.entropy()
    found = gradients(loss + 0.7 * entropy, model)
    with record_gates(model, batch["attention_mask"]) as gates:
        expected = reference_on_batch(model, batch)
    assert float(entropy) == pytest.approx(float(gates.entropy()), rel=1e-12)
    wanted = gradients(expected + 0.7 * gates.entropy(), model)
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-12)
    assert in_parts == [18]


def reference_on_batch(model: Any, batch: dict[str, Tensor]) -> Tensor:
    mask, labels = batch["attention_mask"], batch["labels"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(
        batch["input_ids"], attention_mask=mask, position_ids=positions, use_cache=False
    ).logits
    scores = logits[:, :-1].log_softmax(-1)
    chosen = labels[:, 1:] != IGNORED
    return -scores[chosen].gather(1, labels[:, 1:][chosen][:, None]).mean()


def scaling() -> Any:
    """Return a frozen model that divides its logits."""
    torch.manual_seed(1)
    config = GraniteConfig(**SIZES, logits_scaling=4.0)
    return GraniteForCausalLM(config).double().requires_grad_(False)


def with_a_trained_head() -> Any:
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    return get_peft_model(llama(), config)


def with_an_adapted_head() -> Any:
    config = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    return get_peft_model(llama(), config).double()


@pytest.mark.parametrize("make", [scaling, with_a_trained_head, with_an_adapted_head])
def test_what_is_more_than_a_frozen_layer_is_computed_whole(
    make: Callable[[], Any], in_parts: list[int]
) -> None:
    model, batch = make().eval(), make_batch()
    for _ in range(2):
        assert float(token_loss(model, batch)) == pytest.approx(
            float(reference(model, batch)), rel=1e-9
        )
    assert in_parts == []


def test_a_model_that_scales_its_logits_is_asked_once(in_parts: list[int]) -> None:
    model, batch = scaling().eval(), make_batch()
    passes: list[int] = []
    model.model.register_forward_hook(lambda *_: passes.append(1))
    token_loss(model, batch)
    assert len(passes) == 2  # once to find out
    token_loss(model, batch)
    assert len(passes) == 3
    assert not model.lm_head._forward_pre_hooks


def kept_bytes(run: Callable[[], Tensor]) -> int:
    """Return the bytes of the distinct tensors that a loss keeps for its backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = run()
    assert math.isfinite(float(loss))
    return sum(kept.values())


def test_no_logits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = 50_000
    torch.manual_seed(1)
    model = adapted(LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": vocabulary})).double())
    batch = make_batch()
    tokens, columns = 18, 4 * 10
    whole = kept_bytes(lambda: token_loss(model, batch))
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 2 * vocabulary)
    parts = kept_bytes(lambda: token_loss(model, batch))
    assert whole - parts > columns * vocabulary * 8 - tokens * WIDTH * 8


def test_short_answers_are_computed_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = adapted(llama()).eval(), make_batch()
    monkeypatch.setattr(likelihood, "_in_parts", lambda *_: pytest.fail("in parts"))
    assert float(token_loss(model, batch)) == pytest.approx(
        float(reference(model, batch)), rel=1e-9
    )
