"""A whole trial: determinism, resuming, files, figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from gatera.errors import InputError
from gatera.training import fit, score, train
from gatera.training.attempt_files import ANSWERS_FILE, checkpointed_steps
from gatera.training.attempt_files import checkpoints as checkpoints_in
from gatera.training.evaluation.answer_log import AnswerLog
from gatera.training.evaluation.scoring import Known
from gatera.training.metrics_log import PrunedError
from gatera.training.optimization import callbacks, checkpoints
from gatera.training.optimization.module import AdapterModule, NotFiniteError
from gatera.training.optimization.trainer import _repeatable
from gatera.trial import Trial, TrialResult


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def comparable(result: TrialResult) -> dict[str, Any]:
    values = result.to_json()
    del values["measured"]
    return values


def test_a_trial_gives_the_same_bytes_twice(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    trial = make_trial()
    first = fit(trial, tmp_path / "a", data_root=data_root)
    second = fit(trial, tmp_path / "b", data_root=data_root)
    assert comparable(first) == comparable(second)
    files = [tmp_path / name / "predictions.parquet" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert hashlib.sha256(files[0].read_bytes()).hexdigest() == first.predictions_sha256
    other = fit(make_trial(seed=4), tmp_path / "c", data_root=data_root)
    assert other.metrics["train/loss"] != first.metrics["train/loss"]
    assert TrialResult.from_json(json.loads(json.dumps(first.to_json()))) == first
    for name in ("test/accuracy/boolq", "test/accuracy", "test/no_keyword/boolq", "val/accuracy"):
        assert 0.0 <= first.metrics[name] <= 1.0
    assert 0.3 < first.metrics["gate/mean"] < 0.7  # a fresh gate is half open
    parts_of_gates = {"overall", "prompt", "answer", "modules", "tasks", "items", "histogram"}
    assert set(first.gates) == parts_of_gates
    assert sum(first.gates["histogram"]) == pytest.approx(1)
    middle = sum(share * (place + 0.5) for place, share in enumerate(first.gates["histogram"])) / 20
    assert middle == pytest.approx(first.gates["overall"]["mean"], abs=0.025)  # half a bin
    assert len(first.gates["modules"]) == 4
    of_tasks = first.gates["tasks"]
    assert list(of_tasks) == first.config["data"]["tasks"]
    means = [of_task["prompt"]["mean"] for of_task in of_tasks.values()]
    assert min(means) <= first.gates["prompt"]["mean"] <= max(means)
    assert first.parts["training"]["dropped_items"] == 3  # test questions among the records
    predictions = pd.read_parquet(files[0])
    texts = ["task", "index", "cluster", "output", "extracted", "answer"]
    assert list(predictions) == [*texts, "correct", "score", "log_probability"]
    assert len(predictions) == 11
    assert predictions["correct"].mean() == first.metrics["test/accuracy"]
    assert (predictions["score"] == predictions["correct"]).all()
    assert (predictions["log_probability"] < 0).all()
    assert predictions["log_probability"].mean() == pytest.approx(
        first.metrics["test/log_probability/boolq"]
    )


class KilledError(Exception):
    pass


@contextmanager
def killed_after_saving(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Expect what runs here to end right after its checkpoint of a step."""
    save = checkpoints.save

    def save_and_die(folder: Path, state: checkpoints.TrainState) -> None:
        save(folder, state)
        if state.step == step:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save", save_and_die)
        with pytest.raises(KilledError):
            yield


def test_an_interrupted_trial_ends_like_one_that_was_not(
    make_trial: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(train={"accumulation": 2})
    whole = fit(trial, tmp_path / "whole", data_root=data_root)

    with killed_after_saving(6, monkeypatch):
        fit(trial, tmp_path / "cut", data_root=data_root)
    (newest,) = (tmp_path / "cut" / "checkpoints").glob("step-00000006-*.pt")
    whole_bytes = newest.read_bytes()
    middle = len(whole_bytes) // 2
    flipped = bytes([whole_bytes[middle] ^ 1])
    newest.write_bytes(whole_bytes[:middle] + flipped + whole_bytes[middle + 1 :])
    resumed = fit(
        trial, tmp_path / "second", data_root=data_root, resume_from=[tmp_path / "cut"], attempt=2
    )
    steps = [line["step"] for line in lines_of(tmp_path / "second") if line["phase"] == "train"]
    assert steps == [4, 5, 6, 7, 8]
    assert resumed.attempt == 2
    assert comparable(dataclasses.replace(resumed, attempt=1)) == comparable(whole)
    adapters = [
        tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "second")
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_resuming_is_exact_with_two_data_workers_a_schedule_and_dropout(
    make_trial: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_workers(self: Any) -> Any:
        context = "fork"  # the workers read arrays only
        return DataLoader(
            self._batches, batch_size=None, num_workers=2, multiprocessing_context=context
        )

    monkeypatch.setattr("gatera.training.data.TrainingData.train_dataloader", two_workers)
    trial = make_trial(
        train={
            "accumulation": 4,
            "schedule": "cosine",
            "warmup_steps": 3,
            "weight_decay": 0.1,
            "gate_learning_rate_factor": 5.0,
        }
    )
    whole = fit(trial, tmp_path / "whole", data_root=data_root)

    for step, folder in ((3, "first"), (6, "second")):
        with killed_after_saving(step, monkeypatch):
            fit(trial, tmp_path / folder, data_root=data_root, resume_from=[tmp_path / "first"])
    earlier = [tmp_path / "second", tmp_path / "first"]
    third = fit(trial, tmp_path / "third", data_root=data_root, resume_from=earlier)
    assert comparable(third) == comparable(whole)
    trained = [tmp_path / name / "adapter/adapter_model.safetensors" for name in ("whole", "third")]
    assert trained[0].read_bytes() == trained[1].read_bytes()


def test_scoring_goes_on_from_the_batches_that_were_answered(
    make_trial: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Places of one digit and of two: as JSON's keys they are sorted in another way than as numbers.
    trial = make_trial(eval={"limit": None, "batch_size": 12})
    whole = fit(trial, tmp_path / "whole", data_root=data_root)

    class DyingLog(AnswerLog):
        def write(self, task: str, found: Known) -> None:
            super().write(task, found)
            if found.outputs:
                raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("gatera.training.evaluation.scorer.AnswerLog", DyingLog)
        with pytest.raises(KilledError):
            fit(trial, tmp_path / "cut", data_root=data_root)
    damaged = (tmp_path / "cut" / ANSWERS_FILE).read_text().replace("boolq", "boolx")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ANSWERS_FILE).write_text(damaged + '{"torn')
    earlier = [tmp_path / "cut", tmp_path / "other"]
    resumed = fit(trial, tmp_path / "second", data_root=data_root, resume_from=earlier)
    assert comparable(resumed) == comparable(whole)
    tested = [line["answered"] for line in lines_of(tmp_path / "second") if "answered" in line]
    assert tested == [20]  # of batches of 12 and 8 the first was there, and all options


def test_answers_count_by_what_gave_them(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, [], {"boolq": "these weights", "piqa": "these too"})
    outputs = {place: f"true {place}" for place in range(15)}
    likelihoods = {place: [-0.1 * place, -1 / 3] for place in range(12)}
    log.write("boolq", Known(outputs))
    log.write("boolq", Known(likelihoods=likelihoods))
    log.write("piqa", Known({3: "solution1"}, {3: [0.5]}))
    log.close()
    again = AnswerLog(tmp_path / ".", [], {"boolq": "these weights", "piqa": "others"})
    assert again.known("boolq") == Known(outputs, likelihoods)
    assert again.known("piqa") == Known()


def test_trained_weights_are_scored_again_without_training(
    make_trial: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial()
    other = make_trial(eval={"limit": 7})  # another key, the same weights
    closed = make_trial(adapter={"r": 3, "gate_threshold": 0.51, **TARGETS})
    hira = make_trial(adapter={"r": 3, "gate_threshold": 0.51, "dropout": 0.1, **TARGETS})
    assert other.training_key == trial.training_key == hira.training_key != closed.training_key
    assert len({trial.key, other.key, hira.key}) == 3
    trained = train(trial, tmp_path / "a", data_root=data_root)
    scores = {
        name: score(
            each,
            tmp_path / name,
            data_root=data_root,
            trained=trained,
            adapter=tmp_path / "a" / "adapter",
        )
        for name, each in (("a", trial), ("b", other), ("c", hira))
    }
    assert comparable(scores["a"]) == comparable(fit(trial, tmp_path / "d", data_root=data_root))
    assert scores["b"].metrics["train/loss"] == scores["a"].metrics["train/loss"]
    assert len(pd.read_parquet(tmp_path / "b" / "predictions.parquet")) == 7
    assert "share_skipped" not in scores["a"].gates["overall"]
    assert 0 < scores["c"].gates["overall"]["share_skipped"] < 1  # the threshold is the row's own


def test_answers_of_the_same_weights_count_for_another_column(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    one = make_trial()
    both = make_trial(data={"tasks": ["world_truth", "boolq"]})
    longer = make_trial(eval={"max_new_tokens": 5})
    trained = train(one, tmp_path / "one", data_root=data_root)
    assert both.training_key == longer.training_key == one.training_key

    def answered(name: str, trial: Trial, *earlier: str) -> list[str]:
        """Score a trial; return the task of each batch that was computed."""
        score(
            trial,
            tmp_path / name,
            data_root=data_root,
            trained=trained,
            adapter=tmp_path / "one" / "adapter",
            answered=[tmp_path / each for each in earlier],
        )
        lines = (tmp_path / name / ANSWERS_FILE).read_text().splitlines()
        return [json.loads(line)["task"] for line in lines]

    # Each batch twice: its options, and its answers.
    assert answered("one", one) == ["boolq"] * 6
    assert set(answered("both", both, "one")) == {"world_truth"}
    assert answered("longer", longer, "one", "both") == ["boolq"] * 6  # decoded in another way
    predictions = [pd.read_parquet(tmp_path / n / "predictions.parquet") for n in ("one", "both")]
    same = predictions[1][predictions[1]["task"] == "boolq"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, predictions[0])


ENDPOINTS = ("accuracy", "log_probability")
TARGETS = {"target_modules": ["q_proj", "down_proj"]}


def test_the_likeliest_option_is_the_answer_where_one_chooses(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    written = make_trial(train={"learning_rate": 0.02, "max_steps": 40})
    chosen = make_trial(
        train={"learning_rate": 0.02, "max_steps": 40}, eval={"method": "choice", "limit": None}
    )
    trained = train(written, tmp_path / "a", data_root=data_root)
    options = {"trained": trained, "adapter": tmp_path / "a" / "adapter", "data_root": data_root}
    score(written, tmp_path / "a", **options)
    result = score(chosen, tmp_path / "b", **options)
    assert written.training_key == chosen.training_key
    assert written.key != chosen.key
    lines = (tmp_path / "b" / ANSWERS_FILE).read_text()
    assert '"outputs"' not in lines  # nothing was generated
    tested = [line["answered"] for line in lines_of(tmp_path / "b") if "answered" in line]
    assert tested == [5, 10, 15, 20]
    found = pd.read_parquet(tmp_path / "b" / "predictions.parquet")
    half = -math.log(2)  # of two options, the likelier one has more than half
    assert (found["correct"] == (found["log_probability"] > half)).all()
    assert (found["output"] == "the correct answer is " + found["extracted"]).all()
    assert result.metrics["test/accuracy"] == found["correct"].mean()
    assert result.metrics["test/no_keyword/boolq"] == 0.0
    # The options weigh the same, however the answer is given.
    same = pd.read_parquet(tmp_path / "a" / "predictions.parquet").set_index("index")
    both = found.set_index("index").loc[same.index]
    assert both["log_probability"].tolist() == pytest.approx(same["log_probability"].tolist())


def test_the_mean_of_the_last_weights_is_kept_where_it_is_asked_for(
    make_trial: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(train={"validation_every": 2, "average_last": 3, "max_steps": 7})
    assert trial.training_key != make_trial(train={"validation_every": 2, "max_steps": 7})
    seen: list[dict[str, torch.Tensor]] = []  # the weights after each step
    on_step_end = callbacks.StepLog.on_step_end

    def watch(self: Any, module: AdapterModule) -> None:
        on_step_end(self, module)
        seen.append(checkpoints.trainable_weights(module.model))

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.StepLog, "on_step_end", watch)
        whole = fit(trial, tmp_path / "whole", data_root=data_root)
    saved = load_file(tmp_path / "whole" / "adapter" / "adapter_model.safetensors")
    assert len(saved) == len(seen[0])
    for name, value in seen[0].items():
        mean = sum(seen[step - 1][name].double() for step in (4, 6, 7)) / 3
        (key,) = [each for each in saved if each == name.replace(".default", "")]
        torch.testing.assert_close(saved[key].double(), mean, rtol=1e-6, atol=1e-8)
        assert not torch.equal(saved[key], value)

    with killed_after_saving(6, monkeypatch):
        fit(trial, tmp_path / "cut", data_root=data_root)
    resumed = fit(trial, tmp_path / "second", data_root=data_root, resume_from=[tmp_path / "cut"])
    assert comparable(resumed) == comparable(whole)
    assert whole.metrics["val/step"] == 7  # what the kept weights are worth, measured at the end
    with pytest.raises(InputError, match=r"average_last=5, but 7 steps .* have 4 validations"):
        fit(
            make_trial(train={"validation_every": 2, "average_last": 5, "max_steps": 7}),
            tmp_path / "more",
            data_root=data_root,
        )


def test_each_seed_has_its_own_say(make_trial: Any, data_root: Path, tmp_path: Path) -> None:
    def first_losses(**seeds: int) -> list[float]:
        trial = make_trial(train={"max_steps": 2, **seeds})
        folder = tmp_path / trial.key
        train(trial, folder, data_root=data_root)
        return [line["train/loss"] for line in lines_of(folder) if line["phase"] == "train"]

    plain = first_losses()
    assert first_losses(order_seed=3, init_seed=3, dropout_seed=3) == plain
    order, initial, dropout = (
        first_losses(**{name: 9}) for name in ("order_seed", "init_seed", "dropout_seed")
    )
    assert order[0] != plain[0]  # other items
    assert initial[0] == dropout[0] == plain[0]  # a fresh adapter changes nothing
    assert len({losses[1] for losses in (plain, initial, dropout)}) == 3


def test_a_pruned_trial_stops_after_its_step(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    stop_file = tmp_path / "pruned.json"
    stop_file.touch()
    with pytest.raises(PrunedError, match="pruned after step 1 of 8"):
        fit(make_trial(), tmp_path / "a", data_root=data_root, stop_file=stop_file)


def test_sigterm_saves_the_last_step_and_ends_the_process(
    make_trial: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gatera.training.optimization.callbacks import StepLog

    log_step = StepLog.on_step_end

    def log_and_be_asked_to_end(self: StepLog, module: Any) -> None:
        log_step(self, module)
        if module.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(StepLog, "on_step_end", log_and_be_asked_to_end)
    with pytest.raises(SystemExit) as ended:
        fit(make_trial(), tmp_path / "a", data_root=data_root)
    assert ended.value.code == 143
    assert checkpointed_steps(tmp_path / "a") == 5
    monkeypatch.setattr(StepLog, "on_step_end", log_step)
    fit(make_trial(), tmp_path / "a", data_root=data_root)
    steps = [line["step"] for line in lines_of(tmp_path / "a") if line["phase"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_two_checkpoints_are_kept_and_hold_no_frozen_weight(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    fit(make_trial(), tmp_path, data_root=data_root)
    found = checkpoints_in(tmp_path / "checkpoints")
    assert [step for step, _, _ in found] == [6, 8]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    state = torch.load(found[1][2], weights_only=True)
    assert all("gatera_" in name for name in state["weights"])


def test_metrics_lines_tell_the_progress(make_trial: Any, data_root: Path, tmp_path: Path) -> None:
    fit(make_trial(), tmp_path, data_root=data_root)
    lines = lines_of(tmp_path)
    train = [line for line in lines if line["phase"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 9))
    expected = {"phase", "step", "max_steps", "train/loss", "train/entropy", "gate/mean"}
    assert set(train[0]) == expected | {"learning_rate", "seconds", "attempt_seconds"}
    assert [line["learning_rate"] for line in train] == pytest.approx(
        [1e-2 * (8 - step) / 8 for step in range(8)]  # 10 % of 8 steps is no warm-up
    )
    validations = [line for line in lines if line["phase"] == "validate"]
    assert [line["step"] for line in validations] == [4, 8]
    assert lines[-1]["phase"] == "test"
    assert lines[-1]["answered"] == lines[-1]["items"] == 11


def test_variants_of_one_seed_see_the_same_batches_and_start_alike(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    adapter = {"r": 3, "target_modules": ["q_proj", "down_proj"]}
    losses = []
    for gate in ("token", "none"):
        trial = make_trial(adapter=adapter | {"gate": gate}, train={"entropy_weight": 0.0})
        fit(trial, tmp_path / gate, data_root=data_root)
        losses.append(lines_of(tmp_path / gate)[0]["train/loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("gate", ["static", "token"])
def test_gates_learn_at_a_rate_of_their_own(
    make_trial: Any, data_root: Path, tmp_path: Path, gate: str
) -> None:
    # At one half the entropy is flat, and a fresh update, which is 0, says nothing of its gate.
    adapter = {"r": 3, "target_modules": ["q_proj", "down_proj"], "gate": gate, "gate_bias": 0.7}
    once = {"max_steps": 1, "warmup_steps": 0, "schedule": "constant", "learning_rate": 1e-3}
    moved = {}
    for factor in (0.0, 1.0, 5.0):
        trial = make_trial(adapter=adapter, train={**once, "gate_learning_rate_factor": factor})
        folder = tmp_path / str(factor)
        train(trial, folder, data_root=data_root)
        moved[factor] = load_file(folder / "adapter" / "adapter_model.safetensors")
    for name, start in moved[0.0].items():  # of the gates, where they began
        steps = [(moved[factor][name] - start).double() for factor in (1.0, 5.0)]
        if ".gatera_gate." in name:
            # AdamW's first step is the rate times the sign of the gradient.
            assert steps[0].abs().max() == pytest.approx(1e-3, rel=1e-2)
            torch.testing.assert_close(steps[1], 5 * steps[0], rtol=1e-3, atol=1e-6)
        else:
            assert not any(step.any() for step in steps)
    assert any(".gatera_gate." in name for name in moved[0.0])


def test_held_out_loss_is_followed_where_training_is_asked_to(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the sky is blue with the grass near the snow " * 30)
    plain, asked = make_trial(), make_trial(train={"knowledge": str(text)})
    assert plain.training_key != asked.training_key
    trained = train(asked, tmp_path / "a", data_root=data_root)
    followed = [line for line in lines_of(tmp_path / "a") if "knowledge/loss" in line]
    assert [line["step"] for line in followed] == [4, 8]
    assert all("val/accuracy" in line for line in followed)
    # One of them is of the weights that are kept, which scoring measures too.
    scored = make_trial(train={"knowledge": str(text)}, eval={"knowledge": str(text)})
    result = score(
        scored,
        tmp_path / "b",
        data_root=data_root,
        trained=trained,
        adapter=tmp_path / "a" / "adapter",
    )
    kept = {line["step"]: line["knowledge/loss"] for line in followed}
    assert result.metrics["knowledge/loss"] == pytest.approx(kept[trained.metrics["val/step"]])
    # What is measured beside has no say in the weights.
    other = train(plain, tmp_path / "c", data_root=data_root)
    assert other.adapter_sha256 == trained.adapter_sha256


def test_the_frozen_backbone_is_scored_alone(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    result = fit(make_trial(adapter=None), tmp_path, data_root=data_root)
    names = {"test/no_keyword/boolq"}
    names |= {f"test/{each}{task}" for each in ENDPOINTS for task in ("", "/boolq")}
    assert set(result.metrics) == names
    assert result.parameters["trainable"] == 0
    assert result.gates == {}
    assert not (tmp_path / "adapter").exists()


def test_training_learns_what_the_first_word_says(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    adapter = {"r": 12, "delta": "lora", "target_modules": "all-linear"}
    trial = make_trial(
        adapter=adapter,
        train={"max_steps": 120, "batch_size": 16, "validation_every": 60, "checkpoint_every": 100},
        eval={"limit": None},
    )
    result = fit(trial, tmp_path, data_root=data_root)
    assert result.metrics["test/no_keyword/boolq"] == 0.0
    assert result.metrics["test/accuracy"] > 0.8


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_step(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    trial = make_trial(train={"learning_rate": 1e30, "gradient_clip": None})
    with pytest.raises(NotFiniteError, match=r"at step \d of 8; lower train.learning_rate"):
        fit(trial, tmp_path, data_root=data_root)


def test_bfloat16_and_gradient_checkpointing_train(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    plain = fit(make_trial(train={"max_steps": 2}), tmp_path / "a", data_root=data_root)
    checkpointed = fit(
        make_trial(train={"max_steps": 2, "gradient_checkpointing": True}),
        tmp_path / "b",
        data_root=data_root,
    )
    half = fit(
        make_trial(train={"max_steps": 2, "dtype": "bfloat16"}), tmp_path / "c", data_root=data_root
    )
    assert checkpointed.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"])
    assert half.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=0.05)
    assert half.parts["training"]["dtype"] == "bfloat16"


def test_a_missing_module_is_an_input_error(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    adapter = {"r": 3, "target_modules": ["q_proj", "fc1"]}
    with pytest.raises(InputError, match=r"names fc1, which .* down_proj, gate_proj"):
        fit(make_trial(adapter=adapter), tmp_path, data_root=data_root)


def test_data_other_than_planned_is_refused(
    make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    planned = make_trial()
    identities = {**planned.identities, "data": {"boolq": {"train": "0" * 64}}}
    trial = dataclasses.replace(planned, identities=identities)
    with pytest.raises(InputError, match=r"planned with another data than .* plan it again"):
        fit(trial, tmp_path / "a", data_root=data_root)
    assert not (tmp_path / "a").exists()
    trial = dataclasses.replace(planned, left_out=())  # so that tested items would train
    with pytest.raises(InputError, match=r"items that train and validate are not those"):
        fit(trial, tmp_path / "b", data_root=data_root)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_training_on_a_gpu_repeats_its_bytes_and_leaves_torch_as_it_was(kind: str) -> None:
    """The settings are torch's own and need no device to be made."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with _repeatable(torch.device(kind)):
            strict = not torch.is_deterministic_algorithms_warn_only_enabled()
            assert strict == (kind == "cuda")
            assert torch.utils.deterministic.fill_uninitialized_memory == (kind == "cpu")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(before)


def test_every_step_is_taken_under_these_settings(
    make_trial: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    taken: list[bool] = []

    @contextmanager
    def noted(device: torch.device) -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    step = AdapterModule.training_step

    def stepping(self: AdapterModule, *batch: Any) -> Any:
        taken.append(bool(inside))
        return step(self, *batch)

    monkeypatch.setattr("gatera.training.optimization.trainer._repeatable", noted)
    monkeypatch.setattr(AdapterModule, "training_step", stepping)
    fit(make_trial(train={"max_steps": 2}), tmp_path, data_root=data_root)
    assert taken == [True, True]
    assert not inside


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_trial_on_packed_weights_trains_and_says_by_what(
    bits: str, make_trial: Any, data_root: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    plain, packed = make_trial(), make_trial(backbone={"quantization": bits})
    assert plain.key != packed.key
    whole = fit(plain, tmp_path / "plain", data_root=data_root)
    result = fit(packed, tmp_path / "packed", data_root=data_root)
    assert result.parameters["trainable"] == whole.parameters["trainable"]
    assert result.metrics["train/loss"] != whole.metrics["train/loss"]
    assert result.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"], rel=0.1)
    for part in result.parts.values():
        assert part["bitsandbytes"]
    assert all("bitsandbytes" not in part for part in whole.parts.values())
    again = fit(packed, tmp_path / "again", data_root=data_root)
    assert comparable(again) == comparable(result)
