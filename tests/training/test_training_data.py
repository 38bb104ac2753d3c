"""Tokenized items and their batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gatera.errors import InputError
from gatera.tasks.example import Example
from gatera.training import data
from gatera.training.data import BatchPlan, Encoded, StepBatches, collate, encode, encode_cached
from gatera.training.evaluation.likelihood import token_loss

ROWS = [([11, 12, 13], [21]), ([14], [22, 23, 24]), ([15, 16, 17, 18], [25, 26])]


def encoded_rows() -> Encoded:
    ids = [token for prompt, response in ROWS for token in prompt + response]
    lengths = [len(prompt) + len(response) for prompt, response in ROWS]
    return Encoded(
        np.array(ids, np.int32),
        np.cumsum([0, *lengths]).astype(np.int64),
        np.array([len(prompt) for prompt, _ in ROWS], np.int32),
        0,
    )


@pytest.fixture
def tokenizer(backbone_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(backbone_folder)


def example(question: str) -> Example:
    return Example(question, "", "the correct answer is true", "true")


def test_batches_are_padded_on_the_left_with_labels_on_the_answer() -> None:
    batch = collate(encoded_rows(), [0, 2, 1], pad=9)
    assert batch["input_ids"].tolist() == [
        [9, 9, 11, 12, 13, 21],
        [15, 16, 17, 18, 25, 26],
        [9, 9, 14, 22, 23, 24],
    ]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6, [0, 0, 1, 1, 1, 1]]
    none = data.IGNORED
    assert batch["labels"].tolist() == [
        [none] * 5 + [21],
        [none] * 4 + [25, 26],
        [none] * 3 + [22, 23, 24],
    ]
    assert batch["answer_mask"].tolist() == [
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1, 1],
    ]


def test_the_loss_on_all_tokens_leaves_out_what_nothing_predicts() -> None:
    labels = collate(encoded_rows(), [0, 2], pad=9, loss_mask="all")["labels"]
    none = data.IGNORED
    assert labels.tolist() == [[none, none, none, 12, 13, 21], [none, 16, 17, 18, 25, 26]]


@pytest.mark.parametrize("loss_mask", ["answer", "all"])
def test_the_loss_is_the_mean_over_tokens_whatever_the_padding(
    loss_mask: str, backbone_folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(backbone_folder, dtype=torch.float64)
    total, count = 0.0, 0
    for prompt, response in ROWS:
        ids = prompt + response
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(prompt) if loss_mask == "answer" else 1
        total -= sum(float(logits[place - 1, ids[place]]) for place in range(first, len(ids)))
        count += len(ids) - first
    batch = collate(encoded_rows(), [1, 0, 2], pad=9, loss_mask=loss_mask)
    assert float(token_loss(model, batch)) == pytest.approx(total / count, rel=1e-5)


def test_prompt_and_response_are_tokenized_apart(tokenizer: Any) -> None:
    encoded = encode([example("question sky ?"), example("snow")], tokenizer, "plain", None)
    assert len(encoded) == 2
    assert encoded.prompt(0) == tokenizer("question sky ?")["input_ids"]
    response = encoded.item(1)[len(encoded.prompt(1)) :]
    assert tokenizer.decode(response) == "the correct answer is true <eos>"
    assert encoded.truncated == 0


def test_what_exceeds_is_cut_from_the_front_of_the_prompt(tokenizer: Any) -> None:
    questions = [example("sky grass snow coal sun rose"), example("sea sand")]
    encoded = encode(questions, tokenizer, "plain", 6 + 3)
    assert tokenizer.decode(encoded.prompt(0)) == "coal sun rose"
    assert tokenizer.decode(encoded.prompt(1)) == "sea sand"
    assert encoded.truncated == 1
    tokenizer.bos_token = "sky"
    kept = encode(questions, tokenizer, "plain", 6 + 3)
    assert tokenizer.decode(kept.prompt(0)) == "sky sun rose"
    with pytest.raises(InputError, match=r"response of 6 tokens leaves no room .* within 6 tokens"):
        encode([example("sea")], tokenizer, "plain", 6)


def test_tokenization_happens_once(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [example("sky grass"), example("sea")]
    first = encode_cached(questions, tokenizer, "plain", 20)
    calls: list[Any] = []
    monkeypatch.setattr(data, "encode", lambda *given: calls.append(given) or first)
    second = encode_cached(questions, tokenizer, "plain", 20)
    assert not calls
    assert [second.item(place) for place in (0, 1)] == [first.item(place) for place in (0, 1)]
    encode_cached(questions, tokenizer, "alpaca", 20)
    encode_cached(questions, tokenizer, "plain", 19)
    encode_cached(questions[:1], tokenizer, "plain", 20)
    assert len(calls) == 3
    (cached,) = [p for p in (tmp_path / "cache" / "tokens").iterdir() if p.stat().st_size][:1]
    for path in cached.parent.iterdir():
        path.write_bytes(b"damaged")
    encode_cached(questions, tokenizer, "plain", 20)
    assert len(calls) == 4


LENGTHS = np.random.default_rng(0).integers(5, 90, size=203)


def plan(seed: int = 5, accumulation: int = 2) -> BatchPlan:
    return BatchPlan(LENGTHS, batch_size=6, accumulation=accumulation, seed=seed)


def test_an_epoch_uses_every_item_at_most_once() -> None:
    batches = plan().epoch(3)
    used = np.concatenate(batches)
    assert len(batches) == plan().steps_in_epoch == 33
    assert {len(batch) for batch in batches} == {6}
    assert len(set(used.tolist())) == len(used) == 198


def test_batches_hold_items_of_similar_length_in_an_order_of_seed_and_epoch() -> None:
    batches = plan().epoch(0)
    spread = np.mean([np.ptp(LENGTHS[batch]) for batch in batches])
    assert spread < 0.6 * np.mean([np.ptp(LENGTHS[i : i + 6]) for i in range(0, 198, 6)])
    same = [np.concatenate(plan(accumulation=1).epoch(0)), np.concatenate(batches)]
    assert (same[0] == same[1]).all()
    for other in (plan(seed=6).epoch(0), plan().epoch(1)):
        assert (np.concatenate(other) != same[0]).any()


def test_any_step_can_be_served_without_those_before_it() -> None:
    encoded = encoded_rows()
    small = BatchPlan(encoded.lengths, batch_size=2, accumulation=2, seed=1)
    whole = StepBatches(encoded, small, 9, "answer", 0, 5)
    rest = StepBatches(encoded, small, 9, "answer", 3, 5)
    assert (len(whole), len(rest)) == (10, 4)
    for index in range(4):
        for name, value in rest[index].items():
            other = whole[6 + index][name]
            assert value == other if name == "shares" else torch.equal(value, other)


def test_fewer_items_than_a_batch_are_refused(tokenizer: Any) -> None:
    encoded = encoded_rows()
    large = BatchPlan(encoded.lengths, batch_size=4, accumulation=1, seed=1)
    with pytest.raises(InputError, match=r"have 3 items, fewer than train\.batch_size=4"):
        data.TrainingData(encoded, large, tokenizer, "answer", range(5))
