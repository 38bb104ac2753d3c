"""What happens around the optimizer steps of a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from gatera.training.metrics_log import MetricsLog, PrunedError
from gatera.training.optimization import checkpoints
from gatera.training.optimization.checkpoints import Best, TrainState
from gatera.training.optimization.losses import all_finite
from gatera.training.optimization.module import (
    AdapterModule,
    NotFiniteError,
    seed_step,
    trained_parameters,
)
from gatera.training.optimization.rates import learning_rate_factor

Validate = Callable[[], tuple[float, float]]  # returns (accuracy, loss)
Measure = Callable[[], Mapping[str, float]]  # returns what else is measured then, by name

RECENT_STEPS = 20  # steps that "train/loss" of a result is the mean of


class StepCallback(pl.Callback):
    """A callback of optimizer steps, where Lightning's are of forward passes."""

    def on_step_end(self, module: AdapterModule) -> None:
        """Act after an optimizer step; `module.step` counts it already."""
        raise NotImplementedError

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass on the forward passes that end an optimizer step."""
        if (batch_idx + 1) % pl_module.settings.accumulation == 0:
            self.on_step_end(pl_module)


class StepSeeding(pl.Callback):
    """Seeds torch before each forward pass by the seed of dropout and the pass's number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Seed the pass that is about to run."""
        seed_step(self._seed, pl_module.first_step * pl_module.settings.accumulation + batch_idx)


class StepLog(StepCallback):
    """Writes each step's values, and keeps those of the last steps for the result."""

    def __init__(self, state: TrainState, log: MetricsLog) -> None:
        self._state, self._log = state, log
        self.tokens_trained = 0  # real tokens of this attempt, prompt and response

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the tokens of every forward pass."""
        self.tokens_trained += int(batch["attention_mask"].sum())
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step_end(self, module: AdapterModule) -> None:
        """Write the step's means, to which each forward pass has added its part."""
        noted = module.values
        means = {name: sum(each[name] for each in noted) for name in noted[0]}
        module.values = []
        self._state.recent = [*self._state.recent, means][-RECENT_STEPS:]
        factor = learning_rate_factor(module.settings, module.step - 1, module.total_steps)
        rate = factor * module.settings.learning_rate
        self._log.write("train", module.step, {**means, "learning_rate": rate})


class Validation(StepCallback):
    """Validates every so many steps and at the end; keeps the best weights, or a mean of the last.

    Where a mean is kept, validation says what it is worth and decides nothing.
    """

    def __init__(
        self, state: TrainState, log: MetricsLog, validate: Validate, measure: Measure
    ) -> None:
        self._state, self._log = state, log
        self._validate, self._measure = validate, measure
        self.seconds = 0.0

    def on_step_end(self, module: AdapterModule) -> None:
        """Validate where it is due."""
        if module.step % module.settings.validation_every and module.step != module.total_steps:
            return
        began = time.monotonic()
        accuracy, loss = self._validate()
        others = self._measure()
        module.model.train()
        self.seconds += time.monotonic() - began
        self._log.write(
            "validate", module.step, {"val/accuracy": accuracy, "val/loss": loss, **others}
        )
        if module.settings.average_last is not None:
            self._keep_mean(module, module.settings.average_last)
            return
        candidate = Best(module.step, accuracy, loss, {})
        if candidate.is_better_than(self._state.best):
            candidate.weights = checkpoints.trainable_weights(module.model)
            self._state.best = candidate

    def _keep_mean(self, module: AdapterModule, count: int) -> None:
        """Keep the weights as they are now; after the last step, the mean of the last `count`."""
        state, now = self._state, checkpoints.trainable_weights(module.model)
        state.last = [*state.last, now][-count:]
        if module.step < module.total_steps:
            return
        mean = checkpoints.mean_weights(state.last)
        checkpoints.restore_weights(module.model, mean)
        began = time.monotonic()
        accuracy, loss = self._validate()
        self.seconds += time.monotonic() - began
        module.model.train()
        checkpoints.restore_weights(module.model, now)  # what the checkpoint goes on from
        state.best = Best(module.step, accuracy, loss, mean)


class StopWhenPruned(StepCallback):
    """Ends training after the step at which a file appeared."""

    def __init__(self, stop_file: Path) -> None:
        self._stop_file = stop_file

    def on_step_end(self, module: AdapterModule) -> None:
        """Stop where the file is there.

        Raises:
            PrunedError: it is.
        """
        if self._stop_file.exists():
            raise PrunedError(f"pruned after step {module.step} of {module.total_steps}")


class Checkpointing(StepCallback):
    """Saves the state every so many steps, at the end, and when asked to stop by SIGTERM."""

    def __init__(self, state: TrainState, folder: Path) -> None:
        self._state, self._folder = state, folder

    def on_step_end(self, module: AdapterModule) -> None:
        """Save where it is due."""
        if module.step % module.settings.checkpoint_every and module.step != module.total_steps:
            return
        self._save(module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save the last finished step when the process was asked to end between two steps."""
        if isinstance(exception, SIGTERMException) and not pl_module.values:
            self._save(pl_module)

    def _save(self, module: AdapterModule) -> None:
        if not all_finite(trained_parameters(module.model)):
            raise NotFiniteError(
                f"the adapter holds a NaN or an infinity after step {module.step} of "
                f"{module.total_steps}; lower train.learning_rate "
                f"(now {module.settings.learning_rate}) or clip gradients."
            )
        self._state.step = module.step
        self._state.weights = checkpoints.trainable_weights(module.model)
        self._state.optimizer = module.trainer.optimizers[0].state_dict()
        checkpoints.save(self._folder, self._state)


def recent_means(state: TrainState) -> dict[str, float]:
    """Return the means over the last steps, by name; empty before the first step."""
    if not state.recent:
        return {}
    return {
        name: sum(values[name] for values in state.recent) / len(state.recent)
        for name in state.recent[0]
    }


def measured(state: TrainState) -> dict[str, float]:
    """Return the last losses, and what the best weights reached on the validation items."""
    recent = recent_means(state)
    metrics = {name: recent[name] for name in ("train/loss", "train/entropy")}
    best = state.best
    if best is not None:
        metrics |= {"val/accuracy": best.accuracy, "val/loss": best.loss, "val/step": best.step}
    return metrics
