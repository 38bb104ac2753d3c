"""The loss on held-out text, with and without the adapter."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gatera import backbones
from gatera.errors import InputError
from gatera.tasks.held_out import held_out_sentences
from gatera.training import fit
from gatera.training.adapting import adapt
from gatera.training.evaluation.knowledge import MAX_WINDOWS, WINDOW_TOKENS, knowledge_losses

ADAPTER = {"r": 3, "target_modules": ["q_proj", "down_proj"]}


def reference_loss(model: Any, sequences: list[list[int]]) -> float:
    """Mean negative log probability of every token but each sequence's first, one at a time."""
    total, count = 0.0, 0
    for ids in sequences:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        for place in range(1, len(ids)):
            total -= float(torch.log_softmax(logits[place - 1], dim=0)[ids[place]])
            count += 1
    return total / count


def test_both_losses_are_those_of_the_definition() -> None:
    backbone = backbones.load("tiny")
    sequences = backbone.tokenizer(held_out_sentences())["input_ids"]
    before = reference_loss(backbone.model, sequences)
    model = adapt(backbone.model, ADAPTER, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gatera_B" in name:
                parameter.copy_(20 * torch.randn(parameter.shape, generator=generator))
    after = reference_loss(model, sequences)
    assert abs(after - before) > 0.01  # the random adapter does change what the model says
    found = knowledge_losses(model, backbone.tokenizer, "world", 7, adapted=True)
    assert found == pytest.approx(
        {"knowledge/loss": after, "knowledge/loss_before": before}, rel=1e-4
    )
    assert before < math.log(len(backbone.tokenizer)) / 2  # it knows its world


def test_the_frozen_backbone_has_one_loss_and_no_text_has_none() -> None:
    backbone = backbones.load("tiny")
    found = knowledge_losses(backbone.model, backbone.tokenizer, "world", 64, adapted=False)
    assert set(found) == {"knowledge/loss"}
    assert knowledge_losses(backbone.model, backbone.tokenizer, None, 64, adapted=False) == {}


def test_a_text_is_cut_into_windows_of_which_the_first_count(tmp_path: Path) -> None:
    backbone = backbones.load("tiny")
    long = " ".join(held_out_sentences() * 40)
    text = tmp_path / "text.txt"
    text.write_text(long)
    ids = backbone.tokenizer(long[: 6 * WINDOW_TOKENS * MAX_WINDOWS])["input_ids"]
    windows = [
        ids[start * WINDOW_TOKENS : (start + 1) * WINDOW_TOKENS] for start in range(MAX_WINDOWS)
    ]
    few = [window for window in windows if len(window) > 1]
    found = knowledge_losses(backbone.model, backbone.tokenizer, str(text), 16, adapted=False)
    expected = reference_loss(backbone.model, few)
    assert found["knowledge/loss"] == pytest.approx(expected, rel=1e-4)


def test_a_text_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    backbone = backbones.load("tiny")

    def measure(path: Path) -> Any:
        return knowledge_losses(backbone.model, backbone.tokenizer, str(path), 4, adapted=False)

    with pytest.raises(InputError, match=r"none.txt cannot be read as text"):
        measure(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match=r"empty.txt holds fewer than two tokens"):
        measure(tmp_path / "empty.txt")


def test_a_trial_measures_its_text_and_refuses_another(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the sky is blue with snow near the sea")
    planned = make_trial(train={"max_steps": 2}, eval={"knowledge": "text.txt"})
    hashed = {"eval.knowledge": hashlib.sha256(text.read_bytes()).hexdigest()}
    trial = dataclasses.replace(
        planned,
        identities={**planned.identities, "sources": hashed},
        sources={"eval.knowledge": str(text)},
    )
    metrics = fit(trial, tmp_path / "a", data_root=data_root).metrics
    assert metrics["knowledge/loss"] != metrics["knowledge/loss_before"]
    text.write_text("another")
    with pytest.raises(InputError, match=r"planned with another sources than"):
        fit(trial, tmp_path / "b", data_root=data_root)
