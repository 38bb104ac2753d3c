"""A small model for adapters that a test makes up, and a few steps of training."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from gatera import GateraConfig, record_gates
from gatera.adapter import GateRecorder

IN, OUT = 7, 5


def stack() -> nn.Module:
    """Return two layers, (tokens, 7) -> (tokens, 7), the same each time."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(IN, OUT), nn.Tanh(), nn.Linear(OUT, IN))


def adapted(**fields: object) -> PeftModel:
    """Return the stack with both layers adapted at rank 2."""
    torch.manual_seed(3)
    return get_peft_model(stack(), GateraConfig(target_modules=["0", "2"], r=2, **fields))


def fit_to_one(model: PeftModel, x: Tensor) -> tuple[list[float], GateRecorder]:
    """Train for eight steps towards outputs of one; return the losses and the last gates."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(8):
        with record_gates(model.train()) as gates:
            loss = (model(x) - 1).square().mean() + 0.01 * gates.entropy()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, gates
