"""One trial from start to end: build, train, validate, score, describe the result.

Imports pandas and the LLaMA model, which pyarrow and transformers would import at first use: a
process that preloads this module then passes them on to its forks.
"""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas  # noqa: F401
import pytorch_lightning as pl
import torch
import transformers
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException
from transformers.models.llama import modeling_llama  # noqa: F401

from gatera import backbones, tasks
from gatera.backbones import Backbone
from gatera.errors import InputError
from gatera.tasks.decoding import Decoding
from gatera.tasks.mixture import Item, Mixture, load_mixture
from gatera.tasks.prompts import template_identity
from gatera.training import callbacks, checkpoints, measures, provenance, scoring
from gatera.training.adapting import adapt, count_parameters
from gatera.training.answers import AnswerLog, weights_identity
from gatera.training.checkpoints import TrainState
from gatera.training.data import BatchPlan, TrainingData, encode_cached
from gatera.training.files import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    PREDICTIONS_FILE,
)
from gatera.training.gates import survey_gates
from gatera.training.knowledge import knowledge_losses
from gatera.training.module import AdapterModule
from gatera.training.progress import MetricsLog
from gatera.training.scoring import Prediction, Questions
from gatera.training.settings import EvalSettings, TrainSettings
from gatera.trial import Trial, TrialResult

# Hashed where the code is loaded: forks of a process that preloads this module run what it loaded,
# whatever happens to the files since.
provenance.code_sha256()

_SIGTERM_STATUS = 143  # what a shell reports of a process that SIGTERM ended


@dataclass(frozen=True)
class Trained:
    """What training leaves behind, for the result."""

    state: TrainState
    truncated_items: int  # training items whose prompt was cut
    train_seconds: float  # of this attempt, validation left out
    validation_seconds: float
    tokens: int  # real tokens this attempt trained on


def fit_trial(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    resume_from: Sequence[Path] = (),
    attempt: int = 1,
    stop_file: Path | None = None,
) -> TrialResult:
    """Train a trial's adapter and score it; the frozen backbone is scored alone.

    Writes into `attempt_dir`: metrics.jsonl, checkpoints/, answers.jsonl, predictions.parquet and
    adapter/ (as PEFT saves it). Test items are answered once, by the weights that were best on the
    validation items: by accuracy, then by loss, then the earliest; what an earlier attempt answered
    with the same weights counts. The same trial on the same machine with the same number of threads
    gives the same result, interrupted or not. A tuning trial ends with its accuracy on the
    validation items: it reads no test data and keeps no adapter.

    Args:
        trial: What to run.
        attempt_dir: Where to write; made where it is missing.
        data_root: Root of the real data sets; None as in `gatera.tasks.load`.
        resume_from: Folders of earlier attempts, whose newest checkpoint training goes on from.
        attempt: The number of the attempt, for the result.
        stop_file: Training stops at the step after which this file exists; None: never.

    Raises:
        InputError: the configuration or the data cannot be used.
        NotFiniteError: training diverged.
        PrunedError: `stop_file` appeared.
        SystemExit: SIGTERM came during training; a checkpoint was saved.
    """
    _quieten_libraries()
    _check_identities(trial, data_root)
    attempt_dir.mkdir(parents=True, exist_ok=True)
    run = _TrialRun(trial, attempt_dir, data_root, stop_file)
    trained = None
    if trial.config["adapter"] is not None:
        trained = run.train([*resume_from, attempt_dir])
        if trial.is_tuning:
            return run.conclude(trained, attempt)
        run.model.save_pretrained(attempt_dir / ADAPTER_FOLDER)
    return run.score(trained, attempt, resume_from)


def _check_identities(trial: Trial, data_root: Path | None) -> None:
    """Refuse to file a result under a key that other data or another backbone determined.

    Raises:
        InputError: what is here is not what the trial was planned with.
    """
    planned = dict(trial.identities)
    found = {
        "backbone": backbones.identity(trial.config["backbone"]["name"]),
        "template": template_identity(trial.config["data"]["template"]),
        "data": {
            task: {split: tasks.fingerprint(task, split, data_root) for split in splits}
            for task, splits in planned.get("data", {}).items()
        },
    }
    if trial.sources:
        found["sources"] = {name: _file_sha256(path) for name, path in trial.sources.items()}
    changed = [name for name in found if name in planned and planned[name] != found[name]]
    if changed:
        raise InputError(
            f"the trial was planned with another {' and '.join(changed)} than this machine has "
            f"(planned {[planned[name] for name in changed]}, found "
            f"{[found[name] for name in changed]}); plan it again with what is here, or restore "
            "what it was planned with."
        )


def _file_sha256(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _quieten_libraries() -> None:
    """Leave progress to our own log: libraries' bars and advice drown it."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*GPU available but not used.*"):
        warnings.filterwarnings("ignore", message)


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


class _TrialRun:
    """A trial under way: what its phases share."""

    def __init__(
        self, trial: Trial, attempt_dir: Path, data_root: Path | None, stop_file: Path | None
    ) -> None:
        self._trial, self._folder, self._root = trial, attempt_dir, data_root
        self._stop_file = stop_file
        self._config = trial.located_config
        self._data = self._config["data"]
        self._eval = EvalSettings.from_config(self._config["eval"])
        self._dtype: str = trial.config["train"]["dtype"]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        backbone: Backbone = backbones.load(trial.config["backbone"]["name"], self._dtype)
        self._tokenizer = backbone.tokenizer
        self.model: Any = backbone.model.to(self._device)
        self._max_prompt = _longest_prompt(self.model, self._eval.max_new_tokens)
        self._dropped_items = 0
        self._max_steps = 0

    def train(self, resume_from: Sequence[Path]) -> Trained:
        """Train the adapter; leave the best weights in the model."""
        settings = TrainSettings.from_config(self._trial.config["train"])
        self.model = adapt(self.model, self._config["adapter"], self._trial.seed)
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        mixture = load_mixture(
            self._data["train_tasks"],
            self._data["tasks"],
            self._data["validation_items"],
            self._root,
            self._data.get("left_out", ()),
        )
        self._dropped_items = mixture.dropped_items
        encoded = encode_cached(
            [item.example for item in mixture.train],
            self._tokenizer,
            self._data["template"],
            settings.max_tokens,
        )
        if encoded.truncated:
            logging.getLogger(__name__).info(
                "%d training prompts lost their front to train.max_tokens", encoded.truncated
            )
        plan = BatchPlan(
            encoded.lengths, settings.batch_size, settings.accumulation, self._trial.seed
        )
        self._max_steps = settings.total_steps(plan.steps_in_epoch)
        state = self._resumed_state(resume_from)
        data = TrainingData(
            encoded,
            plan,
            self._tokenizer,
            settings.loss_mask,
            range(state.step, self._max_steps),
        )
        trained = self._run_trainer(settings, state, data, mixture, encoded.truncated)
        if state.best is not None:
            checkpoints.restore_weights(self.model, state.best.weights)
        return trained

    def _resumed_state(self, folders: Sequence[Path]) -> TrainState:
        identity = self._state_identity()
        found = checkpoints.newest([folder / CHECKPOINT_FOLDER for folder in folders], identity)
        if found is None:
            return TrainState(identity)
        checkpoints.restore_weights(self.model, found.weights)
        return found

    def _state_identity(self) -> str:
        """Return whose checkpoints and answers are of use: this trial's, by this code."""
        return f"{self._trial.key} {provenance.code_sha256()}"

    def _run_trainer(
        self,
        settings: TrainSettings,
        state: TrainState,
        data: TrainingData,
        mixture: Mixture,
        truncated_items: int,
    ) -> Trained:
        log = MetricsLog(self._folder / METRICS_FILE, self._max_steps)
        step_log = callbacks.StepLog(state, log)
        hooks: list[pl.Callback] = [callbacks.StepSeeding(self._trial.seed), step_log]
        validation = None
        if mixture.validation:
            validation = callbacks.Validation(state, log, self._validator(mixture.validation))
            hooks.append(validation)
        hooks.append(callbacks.Checkpointing(state, self._folder / CHECKPOINT_FOLDER))
        if self._stop_file is not None:
            hooks.append(callbacks.StopWhenPruned(self._stop_file))
        remaining = self._max_steps - state.step
        module = AdapterModule(self.model, settings, self._max_steps, state.step, state.optimizer)
        began = time.monotonic()
        if remaining:
            self.model.train()  # for dropout: Lightning leaves the mode as it finds it
            trainer = self._trainer(settings, remaining, hooks)
            try:
                with _repeatable(self._device):
                    trainer.fit(module, datamodule=data)
            except SIGTERMException:
                raise SystemExit(_SIGTERM_STATUS) from None
        log.close()
        validation_seconds = 0.0 if validation is None else validation.seconds
        seconds = time.monotonic() - began - validation_seconds
        return Trained(state, truncated_items, seconds, validation_seconds, step_log.tokens_trained)

    def _trainer(self, settings: TrainSettings, steps: int, hooks: list[pl.Callback]) -> pl.Trainer:
        return pl.Trainer(
            accelerator="gpu" if self._device.type == "cuda" else "cpu",
            devices=1,
            max_steps=steps,
            accumulate_grad_batches=settings.accumulation,
            gradient_clip_val=settings.gradient_clip,
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
        questions = self._questions(items, None)
        decoding = Decoding(self._eval.max_new_tokens, beams=1, batch_size=self._eval.batch_size)

        def validate() -> tuple[float, float]:
            predictions = scoring.answer(self.model, self._tokenizer, questions, decoding)
            loss = scoring.mean_loss(self.model, self._tokenizer, questions, decoding.batch_size)
            return scoring.accuracy(predictions), loss

        return validate

    def _questions(self, items: list[Item], limit: int | None) -> Questions:
        places = scoring.first_by_hash(items, limit)
        chosen = [items[place] for place in places]
        encoded = encode_cached(
            [item.example for item in chosen],
            self._tokenizer,
            self._data["template"],
            self._max_prompt,
        )
        return Questions(chosen, places, encoded)

    def score(
        self, trained: Trained | None, attempt: int, resume_from: Sequence[Path]
    ) -> TrialResult:
        """Answer the test items, survey the gates, and put the result together."""
        began = time.monotonic()
        asked = [self._test_questions(task) for task in self._data["tasks"]]
        # The frozen backbone is the trial's own by its key.
        weights = {} if trained is None else checkpoints.trainable_weights(self.model)
        identity = weights_identity(self._state_identity(), weights)
        predictions = self._answer(asked, AnswerLog(self._folder, resume_from, identity))
        gates: dict[str, Any] = {}
        if trained is not None:
            gates = survey_gates(self.model, self._tokenizer, asked, self._eval.batch_size)
        knowledge = knowledge_losses(
            self.model,
            self._tokenizer,
            self._eval.knowledge,
            self._eval.batch_size,
            adapted=trained is not None,
        )
        metrics = measures.of_test(self._data["tasks"], predictions, gates)
        if trained is not None:
            metrics |= measures.of_training(trained.state)
        return TrialResult(
            metrics=metrics | knowledge,
            gates=gates,
            predictions_sha256=self._write(predictions),
            provenance=self._provenance(trained, asked),
            measured=self._measured(trained, time.monotonic() - began),
            **self._identity(attempt),
        )

    def conclude(self, trained: Trained, attempt: int) -> TrialResult:
        """Put the result of a tuning trial together: nothing is answered, nothing is surveyed."""
        return TrialResult(
            metrics=measures.of_training(trained.state),
            gates={},
            predictions_sha256=self._write([]),
            provenance=self._provenance(trained, []),
            measured=self._measured(trained, 0.0),
            **self._identity(attempt),
        )

    def _identity(self, attempt: int) -> dict[str, Any]:
        """Return what every result says of its trial and its model."""
        return {
            "key": self._trial.key,
            "seed": self._trial.seed,
            "attempt": attempt,
            "config": self._trial.config,
            "parameters": count_parameters(self.model),
        }

    def _write(self, predictions: list[Prediction]) -> str:
        return scoring.write_predictions(self._folder / PREDICTIONS_FILE, predictions)

    def _test_questions(self, task: str) -> Questions:
        examples = tasks.load(task, "test", self._root)
        return self._questions([Item(task, example) for example in examples], self._eval.limit)

    def _answer(self, asked: Sequence[Questions], answers: AnswerLog) -> list[Prediction]:
        log = MetricsLog(self._folder / METRICS_FILE, self._max_steps)
        decoding = Decoding(self._eval.max_new_tokens, self._eval.beams, self._eval.batch_size)
        total = sum(len(questions) for questions in asked)
        predictions: list[Prediction] = []
        for task, questions in zip(self._data["tasks"], asked, strict=True):
            done = len(predictions)

            def keep(
                outputs: Mapping[int, str], answered: int, task: str = task, done: int = done
            ) -> None:
                answers.write(task, outputs)
                log.write("test", self._max_steps, {"answered": done + answered, "items": total})

            known = answers.known(task)
            predictions += scoring.answer(
                self.model, self._tokenizer, questions, decoding, known=known, on_batch=keep
            )
        answers.close()
        log.close()
        return predictions

    def _provenance(self, trained: Trained | None, asked: Sequence[Questions]) -> dict[str, Any]:
        commit, dirty = provenance.source_state()
        settings = self._trial.config["train"]
        return {
            "code_sha256": provenance.code_sha256(),
            "versions": provenance.versions(),
            "device": self._device.type,
            "dtype": self._dtype,
            "threads": torch.get_num_threads(),
            "identities": self._trial.identities,
            "loss_mask": settings.get("loss_mask"),
            "commit": commit,
            "dirty": dirty,
            "dropped_items": self._dropped_items,
            "truncated_train_items": 0 if trained is None else trained.truncated_items,
            "truncated_test_items": sum(questions.encoded.truncated for questions in asked),
        }

    def _measured(self, trained: Trained | None, eval_seconds: float) -> dict[str, Any]:
        measured: dict[str, Any] = {
            "eval_seconds": eval_seconds,
            "peak_memory_bytes": _peak_memory_bytes(self._device),
            "host": provenance.host(),
        }
        if trained is not None:
            measured |= {
                "train_seconds": trained.train_seconds,
                "validation_seconds": trained.validation_seconds,
                "tokens_per_second": trained.tokens / max(trained.train_seconds, 1e-9),
            }
        if self._device.type == "cuda":
            measured["device_name"] = torch.cuda.get_device_name(self._device)
        return measured


def _longest_prompt(model: Any, max_new_tokens: int) -> int | None:
    """Return the tokens that a prompt with its response may have; None where there is no limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return None if positions is None else int(positions) - max_new_tokens


def _peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used: of the accelerator, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
