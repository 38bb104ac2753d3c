"""Scoring: answering the test items with trained weights, or with the frozen backbone alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gatera import tasks
from gatera.settings import EvalSettings
from gatera.tasks.decoding import Decoding
from gatera.tasks.mixture import Item
from gatera.training import stage
from gatera.training.adapting import attach_trained, count_parameters
from gatera.training.attempt_files import METRICS_FILE, PREDICTIONS_FILE
from gatera.training.evaluation import measures, scoring
from gatera.training.evaluation.answer_log import AnswerLog
from gatera.training.evaluation.choices import may_pack
from gatera.training.evaluation.gate_readings import survey_gates
from gatera.training.evaluation.knowledge import knowledge_losses
from gatera.training.evaluation.predictions import write_predictions
from gatera.training.evaluation.scoring import Answering, Known, Prediction, Questions
from gatera.training.metrics_log import MetricsLog
from gatera.training.provenance import machine
from gatera.training.provenance.code import answering_code, files_sha256, scoring_code
from gatera.trial import Trained, Trial, TrialResult, sha256_of


def score_trial(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    trained: Trained | None,
    adapter: Path | None,
    answered: Sequence[Path] = (),
    attempt: int = 1,
) -> TrialResult:
    """Answer the test items, survey the gates, and put the result together.

    Writes answers.jsonl and predictions.parquet into `attempt_dir`. A tuning trial has nothing to
    answer: its result is what its training measured.

    Args:
        trial: What to score.
        attempt_dir: Where to write; made where it is missing.
        data_root: Root of the real data sets; None as in `gatera.tasks.load`.
        trained: What is known of the weights; None of the frozen backbone.
        adapter: Their folder, as PEFT saved it; None of the frozen backbone and of a tuning trial.
        answered: Folders of attempts, whose answers count where weights, data and code are equal.
        attempt: The number of the attempt, for the result.

    Raises:
        InputError: the configuration or the data cannot be used.
    """
    stage.quieten_libraries()
    stage.check_identities(trial, data_root, ("test",))
    attempt_dir.mkdir(parents=True, exist_ok=True)
    if trial.is_tuning:
        assert trained is not None
        parts: dict[str, Any] = {"metrics": {}, "gates": {}, "measured": {}, "provenance": None}
        parts["predictions_sha256"] = write_predictions(attempt_dir / PREDICTIONS_FILE, [])
        parts["parameters"] = trained.parameters
    else:
        parts = _Scoring(trial, attempt_dir, data_root, trained, adapter).score(answered)
    before = trained or Trained(trial.training_key, trial.key, attempt, {}, {}, {}, {})
    return TrialResult(
        key=trial.key,
        training_key=trial.training_key,
        seed=trial.seed,
        attempt=attempt,
        config=trial.config,
        metrics={**parts["metrics"], **before.metrics},
        gates=parts["gates"],
        parameters=parts["parameters"],
        predictions_sha256=parts["predictions_sha256"],
        provenance={
            "training": dict(before.provenance) or None,
            "scoring": parts["provenance"],
        },
        measured={**before.measured, **_peak(before, parts["measured"])},
    )


def _peak(trained: Trained, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scoring measured, with the larger of the two peaks of memory."""
    name = "peak_memory_bytes"
    both = [each[name] for each in (trained.measured, measured) if name in each]
    return {**measured, **({name: max(both)} if both else {})}


class _Scoring:
    """A scoring under way: what its phases share."""

    def __init__(
        self,
        trial: Trial,
        attempt_dir: Path,
        data_root: Path | None,
        trained: Trained | None,
        adapter: Path | None,
    ) -> None:
        self._trial, self._folder, self._root = trial, attempt_dir, data_root
        self._trained = trained
        self._config = trial.located_config
        self._tasks: list[str] = self._config["data"]["tasks"]
        self._eval = EvalSettings(**self._config["eval"])
        backbone = stage.load_backbone(trial)
        self._tokenizer, self._model = backbone.tokenizer, backbone.model
        if trained is not None:
            assert adapter is not None
            self._model = attach_trained(self._model, self._config["adapter"], adapter)
        self._gate = None if trained is None else str(self._config["adapter"]["gate"])

    def score(self, answered: Sequence[Path]) -> dict[str, Any]:
        """Return the parts of the result that scoring adds."""
        began = time.monotonic()
        asked = [self._test_questions(task) for task in self._tasks]
        identities = {task: self._answers_identity(task) for task in self._tasks}
        predictions = self._answer(asked, AnswerLog(self._folder, answered, identities))
        is_adapted = self._trained is not None
        gates: dict[str, Any] = {}
        if is_adapted:
            gates = survey_gates(self._model, self._tokenizer, asked, self._eval.batch_size)
        knowledge = knowledge_losses(
            self._model,
            self._tokenizer,
            self._eval.knowledge,
            self._eval.batch_size,
            adapted=is_adapted,
        )
        of_corpora = measures.of_corpora(self._tasks, predictions)
        of_items = measures.of_test(self._tasks, predictions, gates)
        return {
            "metrics": of_items | of_corpora.metrics | knowledge,
            "gates": gates,
            "parameters": (
                count_parameters(self._model) if self._trained is None else self._trained.parameters
            ),
            "predictions_sha256": write_predictions(self._folder / PREDICTIONS_FILE, predictions),
            "provenance": {**self._provenance(asked, identities), "notes": of_corpora.notes},
            "measured": {
                "eval_seconds": time.monotonic() - began,
                "peak_memory_bytes": stage.peak_memory_bytes(),
                "host": machine.host(),
            },
        }

    def _answers_identity(self, task: str) -> str:
        """Return what tells answers to a task by these weights and this code from others."""
        weights = {} if self._trained is None else self._trained.adapter_sha256
        code = files_sha256(answering_code(self._trial.config, task))
        return sha256_of([self._trial.answers_identity(task), weights, code])

    def _answering(self, task: str) -> Answering:
        tokens = max(self._eval.max_new_tokens, tasks.find(task).max_new_tokens)
        return Answering(
            Decoding(tokens, self._eval.beams, self._eval.batch_size),
            chooses=self._eval.method == "choice",
            weighs=True,
            packs=may_pack(self._model, self._gate),
        )

    def _test_questions(self, task: str) -> Questions:
        items = [Item(task, example) for example in tasks.load(task, "test", self._root)]
        template = self._config["data"]["template"]
        longest = stage.longest_prompt(self._model, self._answering(task).decoding.max_new_tokens)
        return Questions.of(items, self._eval.limit, self._tokenizer, template, longest)

    def _answer(self, asked: Sequence[Questions], answers: AnswerLog) -> list[Prediction]:
        steps = 0 if self._trained is None else int(self._trained.provenance["steps"])
        log = MetricsLog(self._folder / METRICS_FILE, steps)
        total = sum(len(questions) for questions in asked)
        predictions: list[Prediction] = []
        for task, questions in zip(self._tasks, asked, strict=True):
            how, known = self._answering(task), answers.known(task)
            answered: set[int] = set(known.outputs)

            def keep(
                found: Known,
                task: str = task,
                before: int = len(predictions),
                answered: set[int] = answered,
                chooses: bool = how.chooses,
            ) -> None:
                answers.write(task, found)
                answered.update(found.likelihoods if chooses else found.outputs)
                log.write("test", steps, {"answered": before + len(answered), "items": total})

            predictions += scoring.answer(
                self._model,
                self._tokenizer,
                questions,
                how,
                known=known,
                on_batch=keep,
            )
        answers.close()
        log.close()
        return predictions

    def _provenance(
        self, asked: Sequence[Questions], identities: Mapping[str, str]
    ) -> dict[str, Any]:
        planned = self._trial.identities
        data = planned.get("data", {})
        return {
            **stage.of_process(self._trial, scoring_code(self._trial.config)),
            "dtype": self._config["train"]["dtype"],
            "identities": {
                **{name: planned.get(name) for name in ("backbone", "template")},
                "data": {task: {"test": data.get(task, {}).get("test")} for task in self._tasks},
                "sources": {
                    name: sha256
                    for name, sha256 in planned.get("sources", {}).items()
                    if name.startswith("eval.")
                },
            },
            "answers": dict(identities),
            "truncated_items": sum(questions.encoded.truncated for questions in asked),
            "batch_size": self._eval.batch_size,
        }
