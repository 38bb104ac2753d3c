"""The plain loops that scoring is timed beside: they give the same answers."""

from __future__ import annotations

from typing import Any

import evaluation
import pytest
import torch

from gatera import backbones, tasks
from gatera.tasks.mixture import Item
from gatera.training.adapting import adapt


@pytest.fixture(scope="module")
def backbone() -> Any:
    return backbones.load("tiny")


def asked(backbone: Any, task: str, count: int) -> evaluation.Asked:
    torch.manual_seed(0)
    section = {**evaluation.SECTION, "r": 2, "init_weights": False}
    model = backbone.model
    if not hasattr(model, "peft_config"):
        model = adapt(model, section, 0).eval()
    items = [Item(task, example) for example in tasks.load(task, "test")[:count]]
    return evaluation.Asked(model, backbone.tokenizer, items, at_once=3)


@pytest.mark.parametrize("task", ["world_truth", "world_place"])
def test_plain_loops_answer_alike(task: str, backbone: Any) -> None:
    found = asked(backbone, task, 7)
    assert found.by_framework(chooses=False) == found.by_generate()
    options = found.by_framework(chooses=True)
    assert options == found.by_rows()
    assert all(o in item.example.options for o, item in zip(options, found.items, strict=True))
    rows = evaluation.measured(found, rounds=1)
    assert [row[2] for row in rows] == ["decoding", "choice"]
    assert [row[5] for row in rows] == ["0", "0"]
    assert {float(row[4]) > 0 for row in rows} == {True}
