"""A step that is split into several forward passes has the loss and the gradients of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from gatera.settings import TrainSettings
from gatera.training.adapting import adapt
from gatera.training.data import BatchPlan, Encoded, StepBatches
from gatera.training.optimization.losses import StepShare, step_loss
from gatera.training.optimization.module import AdapterModule

LENGTHS = [(4 + 3 * number % 17, 1 + number % 5) for number in range(40)]  # prompt, response


def encoded(vocabulary: int) -> Encoded:
    """Return items of unequal lengths, of prompts and of responses."""
    rng = np.random.default_rng(0)
    totals = [prompt + response for prompt, response in LENGTHS]
    ids = rng.integers(3, vocabulary, size=sum(totals)).astype(np.int32)
    starts = np.cumsum([0, *totals], dtype=np.int64)
    return Encoded(ids, starts, np.array([p for p, _ in LENGTHS], np.int32), 0)


def gradients(
    folder: Path, accumulation: int, dtype: torch.dtype, loss_mask: str, gate: str
) -> tuple[float, dict[str, Tensor], list[dict[str, Any]], Any]:
    """Return a step's loss and gradients, its batches and the model."""
    model = AutoModelForCausalLM.from_pretrained(folder).to(dtype).requires_grad_(False)
    section = {
        "r": 3,
        "gate": gate,
        "target_modules": ["q_proj", "down_proj"],
        "init_weights": False,
        "gate_init_std": 0.5,
    }
    adapted = adapt(model, section, 7).to(dtype).train()
    settings = TrainSettings(
        batch_size=32, accumulation=accumulation, max_steps=1, entropy_weight=0.7
    )
    module = AdapterModule(adapted, settings, 1, 0, {})
    items = encoded(model.config.vocab_size)
    plan = BatchPlan(items.lengths, 32, accumulation, seed=5)
    batches = StepBatches(items, plan, 2, loss_mask, 0, 1)
    parts = [batches[place] for place in range(len(batches))]
    loss = 0.0
    for place, batch in enumerate(parts):
        passed = module.training_step(batch, place) / accumulation  # as Lightning divides it
        passed.backward()
        loss += float(passed.detach())
    found = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None}
    return loss, found, parts, adapted


def _noting(inputs: dict[str, tuple[Any, Tensor]], name: str) -> Any:
    return lambda layer, given: inputs.__setitem__(name, (layer, given[0]))


def reference(model: Any, parts: list[dict[str, Any]]) -> float:
    """Return the loss of a step as its equation says: means over the tokens of all its parts."""
    losses, entropies = [], []
    for batch in parts:
        for row in range(len(batch["input_ids"])):
            real = batch["attention_mask"][row].bool()
            ids = batch["input_ids"][row][real][None]
            labels = batch["labels"][row][real]
            inputs: dict[str, tuple[Any, Tensor]] = {}
            hooks = [
                layer.register_forward_pre_hook(_noting(inputs, name))
                for name, layer in model.named_modules()
                if hasattr(layer, "gatera_gate") and len(layer.gatera_gate)
            ]
            with torch.no_grad():
                output = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            for hook in hooks:
                hook.remove()
            losses += [
                -output[place - 1, label]
                for place, label in enumerate(labels.tolist())
                if label != -100
            ]
            for layer, x in inputs.values():
                gate = layer.gatera_gate["default"]
                weight = getattr(gate, "weight", torch.zeros(1, x.shape[-1], dtype=x.dtype))
                g = torch.sigmoid(x[0] @ weight.T + gate.bias).flatten()
                entropies.append(-(g * g.log() + (1 - g) * (1 - g).log()))
    modules = len(entropies) // sum(len(batch["input_ids"]) for batch in parts)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in parts)
    return float(torch.stack(losses).mean() + 0.7 * torch.cat(entropies).sum() / tokens / modules)


@pytest.mark.parametrize("loss_mask", ["answer", "all"])
@pytest.mark.parametrize("gate", ["token", "static"])
def test_a_step_has_the_same_gradients_however_it_is_split(
    backbone_folder: Path, loss_mask: str, gate: str
) -> None:
    whole, expected, parts, model = gradients(backbone_folder, 1, torch.float64, loss_mask, gate)
    assert whole == pytest.approx(reference(model, parts), abs=1e-10)
    for accumulation in (4, 8, 32):
        loss, found, _, _ = gradients(backbone_folder, accumulation, torch.float64, loss_mask, gate)
        assert loss == pytest.approx(whole, abs=1e-10)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10)


def test_the_same_holds_in_float32(backbone_folder: Path) -> None:
    _, expected, _, _ = gradients(backbone_folder, 1, torch.float32, "answer", "token")
    _, found, _, _ = gradients(backbone_folder, 4, torch.float32, "answer", "token")
    for name, gradient in found.items():
        error = (gradient - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, name


def test_the_whole_step_is_weighted_by_exactly_one() -> None:
    loss, entropy = torch.tensor(0.1), torch.tensor(0.3)
    assert step_loss(loss, entropy, 0.01, StepShare(1.0, 1.0)) == loss + 0.01 * entropy
    assert step_loss(loss, entropy, 0.0, StepShare(1.0, 1.0)) is not None
    assert step_loss(loss, entropy, 0.0, StepShare(1.0, 1.0)) == loss
