"""One optimizer step of an adapter, as a Lightning module."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gatera.adapter import record_gates
from gatera.settings import TrainSettings
from gatera.training.evaluation.likelihood import token_loss
from gatera.training.optimization.losses import StepShare, step_loss
from gatera.training.optimization.rates import learning_rate_factor
from gatera.trial import sha256_of

_GATE = "gatera_gate"  # what a layer calls its gates


class NotFiniteError(ArithmeticError):
    """Training produced a NaN or an infinity; going on would waste the time of the rest."""


class AdapterModule(pl.LightningModule):
    """Trains the parameters that require gradients: loss on tokens plus λ times gate entropy.

    It has no `validation_step`: validation generates answers and reads them, as scoring does, by a
    callback that logs for itself. Lightning's own loop would hand it batches of training's kind and
    start over where a resumed run goes on in the middle of an epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainSettings,
        total_steps: int,
        first_step: int,
        optimizer_state: dict[str, Any],
    ) -> None:
        """Train from `first_step` on; an empty `optimizer_state` is a fresh start."""
        super().__init__()
        self.model = model
        self.settings = settings
        self.total_steps = total_steps
        self.first_step = first_step
        self._optimizer_state = optimizer_state
        self.values: list[dict[str, float]] = []  # of the forward passes of the step under way

    @property
    def step(self) -> int:
        """Optimizer steps done since the start of the trial."""
        return self.first_step + self.trainer.global_step

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one forward pass.

        Raises:
            NotFiniteError: the loss is NaN or infinite.
        """
        share = StepShare(*batch["shares"])
        with record_gates(self.model, attention_mask=batch["attention_mask"]) as gates:
            task_loss = token_loss(self.model, batch)
        entropy = gates.entropy()
        self._note(task_loss, entropy, gates.overall().get("mean"), share)
        loss = step_loss(task_loss, entropy, self.settings.entropy_weight, share)
        return loss * self.settings.accumulation  # by which Lightning divides it

    def _note(
        self, task_loss: Tensor, entropy: Tensor, gate_mean: float | None, share: StepShare
    ) -> None:
        """Note what the pass adds to the step's means."""
        noted = {
            "train/loss": task_loss.item() * share.learned,
            "train/entropy": entropy.item() * share.tokens,
        }
        if gate_mean is not None:
            noted["gate/mean"] = gate_mean * share.tokens
        for name, value in noted.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"{name} is {value} at step {self.step + 1} of {self.total_steps}; lower "
                    f"train.learning_rate (now {self.settings.learning_rate}), clip gradients or "
                    "train in float32."
                )
        self.values.append(noted)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, both as they were at `first_step`."""
        groups = parameter_groups(self.model, self.settings)
        rates = [group["lr"] for group in groups]
        optimizer: Optimizer = AdamW(groups, weight_decay=self.settings.weight_decay)
        if self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
                group.pop("initial_lr", None)
        schedule = LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                self.settings, step + self.first_step, self.total_steps
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trained_parameters(model: nn.Module) -> list[Tensor]:
    """Return the parameters that training changes."""
    return [p for p in model.parameters() if p.requires_grad]


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Return the trained parameters with their highest learning rate: the gates may have their own.

    One group where all learn alike, and none that is empty.
    """
    by_rate: dict[float, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = settings.gate_learning_rate_factor if _GATE in name.split(".") else 1.0
            by_rate.setdefault(settings.learning_rate * factor, []).append(parameter)
    return [{"params": found, "lr": rate} for rate, found in by_rate.items()]


def seed_step(seed: int, forward_pass: int) -> None:
    """Seed torch for one forward pass, so that dropout does not depend on those before it.

    Both numbers are mixed into 32 bits, which are all that torch's generator on the CPU looks at.
    """
    torch.manual_seed(int(sha256_of([seed, forward_pass])[:8], 16))
