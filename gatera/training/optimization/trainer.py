"""Training a trial's adapter, and validating it meanwhile. Reads nothing of what is scored."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException

from gatera.errors import InputError
from gatera.settings import TrainSettings
from gatera.tasks import find
from gatera.tasks.decoding import Decoding
from gatera.tasks.mixture import Item, Mixture, items_sha256, load_mixture
from gatera.training import stage
from gatera.training.adapting import adapt, count_parameters
from gatera.training.attempt_files import ADAPTER_FOLDER, CHECKPOINT_FOLDER, METRICS_FILE
from gatera.training.data import BatchPlan, TrainingData, encode_cached
from gatera.training.evaluation import scoring
from gatera.training.evaluation.choices import may_pack
from gatera.training.evaluation.knowledge import knowledge_losses
from gatera.training.evaluation.scoring import Answering, Questions
from gatera.training.metrics_log import MetricsLog
from gatera.training.optimization import callbacks, checkpoints
from gatera.training.optimization.checkpoints import TrainState
from gatera.training.optimization.module import AdapterModule
from gatera.training.optimization.rates import total_steps
from gatera.training.provenance.code import files_sha256, training_code
from gatera.trial import Trained, Trial

_SIGTERM_STATUS = 143  # what a shell reports of a process that SIGTERM ended


def train_trial(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    resume_from: Sequence[Path] = (),
    attempt: int = 1,
    stop_file: Path | None = None,
) -> Trained:
    """Train a trial's adapter and keep the weights that were best on the validation items.

    Best is by accuracy, then by loss, then the earliest; with `train.average_last`, the mean of the
    weights at the last validations is kept instead. Writes into `attempt_dir`: metrics.jsonl,
    checkpoints/ and adapter/ (as PEFT saves it; not of a tuning trial). The same trial on the same
    machine with the same number of threads gives the same weights, interrupted or not.

    Args:
        trial: What to train.
        attempt_dir: Where to write; made where it is missing.
        data_root: Root of the real data sets; None as in `gatera.tasks.load`.
        resume_from: Folders of attempts whose newest checkpoint training goes on from, where it is
            of the same training key and code.
        attempt: The number of the attempt.
        stop_file: Training stops at the step after which this file exists; None: never.

    Raises:
        InputError: the configuration or the data cannot be used.
        NotFiniteError: training diverged.
        PrunedError: `stop_file` appeared.
        SystemExit: SIGTERM came during training; a checkpoint was saved.
    """
    stage.quieten_libraries()
    stage.check_identities(trial, data_root, ("train",))
    attempt_dir.mkdir(parents=True, exist_ok=True)
    run = _Training(trial, attempt_dir, data_root, stop_file)
    outcome = run.train([*resume_from, attempt_dir])
    files: dict[str, str] = {}
    if not trial.is_tuning:
        run.model.save_pretrained(attempt_dir / ADAPTER_FOLDER)
        files = _hashes_of(attempt_dir / ADAPTER_FOLDER)
    return Trained(
        training_key=trial.training_key,
        key=trial.key,
        attempt=attempt,
        adapter_sha256=files,
        metrics=callbacks.measured(outcome.state),
        parameters=count_parameters(run.model),
        provenance=run.provenance(outcome),
        measured={
            "train_seconds": outcome.train_seconds,
            "validation_seconds": outcome.validation_seconds,
            "tokens_per_second": outcome.tokens / max(outcome.train_seconds, 1e-9),
            "peak_memory_bytes": stage.peak_memory_bytes(),
        },
    )


def _hashes_of(folder: Path) -> dict[str, str]:
    """Return the hashes of what PEFT saved, but for the model card, which is for people."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix != ".md"
    }


@dataclass(frozen=True)
class _Outcome:
    """What training leaves behind."""

    state: TrainState
    truncated_items: int  # training items whose prompt was cut
    train_seconds: float  # of this attempt, validation left out
    validation_seconds: float
    tokens: int  # real tokens this attempt trained on


class _Training:
    """A training under way: what its phases share."""

    def __init__(
        self, trial: Trial, attempt_dir: Path, data_root: Path | None, stop_file: Path | None
    ) -> None:
        self._trial, self._folder, self._root = trial, attempt_dir, data_root
        self._stop_file = stop_file
        self._config = trial.training_config
        self._settings = TrainSettings(**self._config["train"])
        self._template: str = self._config["data"]["template"]
        self._code = training_code(trial.config)
        backbone = stage.load_backbone(trial)
        self._tokenizer = backbone.tokenizer
        self.model: Any = adapt(backbone.model, self._config["adapter"], trial.seeds["init_seed"])
        self._dropped_items = 0

    def train(self, resume_from: Sequence[Path]) -> _Outcome:
        """Train the adapter; leave the best weights in the model."""
        settings = self._settings
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        mixture = self._mixture()
        encoded = encode_cached(
            [item.example for item in mixture.train],
            self._tokenizer,
            self._template,
            settings.max_tokens,
        )
        if encoded.truncated:
            logging.getLogger(__name__).info(
                "%d training prompts lost their front to train.max_tokens", encoded.truncated
            )
        plan = BatchPlan(
            encoded.lengths,
            settings.batch_size,
            settings.accumulation,
            self._trial.seeds["order_seed"],
        )
        steps = total_steps(settings, plan.steps_in_epoch)
        _check_validations(settings, steps)
        state = self._resumed_state(resume_from)
        data = TrainingData(
            encoded, plan, self._tokenizer, settings.loss_mask, range(state.step, steps)
        )
        outcome = self._run_trainer(state, data, mixture, encoded.truncated, steps)
        if state.best is not None:
            checkpoints.restore_weights(self.model, state.best.weights)
        return outcome

    def _mixture(self) -> Mixture:
        """Return the items that train and validate.

        Raises:
            InputError: they are not those that the trial was planned with.
        """
        trial, settings = self._trial, self._settings
        mixture = load_mixture(
            self._config["data"]["train_tasks"],
            settings.validation_items,
            self._root,
            trial.left_out,
        )
        planned = trial.identities.get("items")
        if planned is not None and planned != items_sha256(mixture):
            raise InputError(
                "the items that train and validate are not those that the trial was planned with; "
                "plan it again with the data that is here, or restore the data."
            )
        self._dropped_items = mixture.dropped_items
        return mixture

    def _resumed_state(self, folders: Sequence[Path]) -> TrainState:
        identity = f"{self._trial.training_key} {files_sha256(self._code)}"
        found = checkpoints.newest([folder / CHECKPOINT_FOLDER for folder in folders], identity)
        if found is None:
            return TrainState(identity)
        checkpoints.restore_weights(self.model, found.weights)
        return found

    def _run_trainer(
        self,
        state: TrainState,
        data: TrainingData,
        mixture: Mixture,
        truncated_items: int,
        steps: int,
    ) -> _Outcome:
        log = MetricsLog(self._folder / METRICS_FILE, steps)
        step_log = callbacks.StepLog(state, log)
        hooks: list[pl.Callback] = [
            callbacks.StepSeeding(self._trial.seeds["dropout_seed"]),
            step_log,
        ]
        validation = callbacks.Validation(
            state, log, self._validator(mixture.validation), self._knowledge
        )
        hooks += [validation, callbacks.Checkpointing(state, self._folder / CHECKPOINT_FOLDER)]
        if self._stop_file is not None:
            hooks.append(callbacks.StopWhenPruned(self._stop_file))
        remaining = steps - state.step
        module = AdapterModule(self.model, self._settings, steps, state.step, state.optimizer)
        began = time.monotonic()
        if remaining:
            self.model.train()  # for dropout: Lightning leaves the mode as it finds it
            trainer = self._trainer(remaining, hooks)
            try:
                with _repeatable(stage.device_in_use()):
                    trainer.fit(module, datamodule=data)
            except SIGTERMException:
                raise SystemExit(_SIGTERM_STATUS) from None
        log.close()
        seconds = time.monotonic() - began - validation.seconds
        tokens = step_log.tokens_trained
        return _Outcome(state, truncated_items, seconds, validation.seconds, tokens)

    def _trainer(self, steps: int, hooks: list[pl.Callback]) -> pl.Trainer:
        return pl.Trainer(
            accelerator="gpu" if stage.device_in_use().type == "cuda" else "cpu",
            devices=1,
            max_steps=steps,
            accumulate_grad_batches=self._settings.accumulation,
            gradient_clip_val=self._settings.gradient_clip,
            callbacks=hooks,
            default_root_dir=self._folder,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )

    def _validator(self, items: list[Item]) -> callbacks.Validate:
        settings = self._settings
        least = max((find(item.task).max_new_tokens for item in items), default=0)
        tokens = max(settings.validation_max_new_tokens, least)
        longest = stage.longest_prompt(self.model, tokens)
        questions = Questions.of(items, None, self._tokenizer, self._template, longest)
        how = Answering(
            Decoding(tokens, beams=1, batch_size=settings.validation_batch_size),
            chooses=settings.validation_method == "choice",
            weighs=False,
            packs=may_pack(self.model, self._config["adapter"]["gate"]),
        )

        def validate() -> tuple[float, float]:
            predictions = scoring.answer(self.model, self._tokenizer, questions, how)
            batch_size = how.decoding.batch_size
            loss = scoring.mean_loss(self.model, self._tokenizer, questions, batch_size)
            return scoring.mean_score(predictions), loss

        return validate

    def _knowledge(self) -> dict[str, float]:
        """Return the loss on held-out pre-training text, where it is asked for."""
        source, batch_size = self._settings.knowledge, self._settings.validation_batch_size
        return knowledge_losses(self.model, self._tokenizer, source, batch_size, adapted=False)

    def provenance(self, outcome: _Outcome) -> dict[str, Any]:
        """Return what the weights were computed by, and from what."""
        train, identities = self._config["train"], self._trial.identities
        data = identities.get("data", {})
        bits = ("accumulation", "gradient_checkpointing", "checkpoint_every")
        return {
            **stage.of_process(self._trial, self._code),
            "dtype": train["dtype"],
            "loss_mask": train["loss_mask"],
            "identities": {
                **{name: identities.get(name) for name in ("backbone", "template", "items")},
                "data": {t: {"train": s["train"]} for t, s in data.items() if "train" in s},
                "sources": {
                    name: sha256
                    for name, sha256 in identities.get("sources", {}).items()
                    if name.startswith(("adapter.", "train."))
                },
            },
            "dropped_items": self._dropped_items,
            "truncated_items": outcome.truncated_items,
            "steps": outcome.state.step,
            **{name: train[name] for name in (*bits, "validation_batch_size")},
        }


def _check_validations(settings: TrainSettings, steps: int) -> None:
    """Refuse a mean over more validations than there are.

    Raises:
        InputError: it is asked for.
    """
    validations = -(-steps // settings.validation_every)
    if settings.average_last is not None and settings.average_last > validations:
        raise InputError(
            f"train.average_last={settings.average_last}, but {steps} steps with "
            f"train.validation_every={settings.validation_every} have {validations} validations; "
            "ask for fewer, or validate more often."
        )


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Have a training step give the same bytes each time.

    On a GPU attention's backward pass would otherwise add in another order each time, and a trial
    that goes on after a crash would not end as one that never stopped. An operation that has no
    such form ends the trial with torch's word on it.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # a pass over every new tensor, for nothing here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)
        settings.fill_uninitialized_memory = filled
