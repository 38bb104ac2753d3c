"""Tokenized items and their batches.

Items are tokenized once and kept in the cache. Batches hold items of similar length; which they
are, and their order, depend on the seed and the epoch alone, so that any step's batch can be made
again without those before it.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gatera.cache_folder import cache_folder
from gatera.errors import InputError
from gatera.tasks.decoding import left_padded, padding_token
from gatera.tasks.example import Example
from gatera.tasks.prompts import render_prompt, template_identity
from gatera.training.logits import IGNORED
from gatera.trial import sha256_of

# Batches' worth of shuffled items that are sorted by length together. More would save padding, but
# length tells tasks apart: a batch would then hold one task, and its gradient speak for that alone.
_BATCHES_PER_BUCKET = 2
_CACHE_FORMAT = 1  # raised when the meaning of cached arrays changes


@dataclass(frozen=True)
class Encoded:
    """Token ids of many prompts with their responses, end to end in one array."""

    ids: np.ndarray  # (tokens,), int32
    starts: np.ndarray  # (items + 1,), int64; item i is ids[starts[i]:starts[i + 1]]
    prompt_lengths: np.ndarray  # (items,), int32
    truncated: int  # items whose prompt lost its front

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, prompt and response, (items,)."""
        return np.diff(self.starts)

    def item(self, index: int) -> list[int]:
        """Return the ids of prompt and response."""
        return self.ids[self.starts[index] : self.starts[index + 1]].tolist()  # type: ignore[no-any-return]

    def prompt(self, index: int) -> list[int]:
        """Return the ids of the prompt."""
        return self.item(index)[: self.prompt_lengths[index]]


def encode(
    examples: Sequence[Example], tokenizer: Any, template: str, max_tokens: int | None
) -> Encoded:
    """Tokenize prompts and responses apart, so that generation starts where training did.

    The response ends with the end-of-sequence token. An item above `max_tokens` loses the front
    of its prompt (a leading begin-of-sequence token stays); None means no limit.

    Raises:
        InputError: a response alone leaves no room for a prompt.
    """
    if not examples:
        return Encoded(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32), 0)
    prompts = tokenizer([render_prompt(template, example) for example in examples])["input_ids"]
    outputs = tokenizer([example.output for example in examples], add_special_tokens=False)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    truncated, rows, prompt_lengths = 0, [], []
    for prompt, output in zip(prompts, outputs["input_ids"], strict=True):
        if prompt and prompt[-1] == eos:  # some tokenizers close what they are given
            prompt = prompt[:-1]
        response = [*output, eos]
        shortened = _cut_front(prompt, response, bos, max_tokens)
        truncated += len(shortened) < len(prompt)
        rows.append(shortened + response)
        prompt_lengths.append(len(shortened))
    starts = np.cumsum([0] + [len(row) for row in rows], dtype=np.int64)
    ids = np.fromiter((token for row in rows for token in row), np.int32, starts[-1])
    return Encoded(ids, starts, np.array(prompt_lengths, np.int32), truncated)


def _cut_front(
    prompt: list[int], response: list[int], bos: int | None, max_tokens: int | None
) -> list[int]:
    if max_tokens is None or len(prompt) + len(response) <= max_tokens:
        return prompt
    room = max_tokens - len(response)
    head = prompt[:1] if prompt[0] == bos else []
    if room <= len(head):
        raise InputError(
            f"a response of {len(response)} tokens leaves no room for its prompt within "
            f"{max_tokens} tokens; raise train.max_tokens."
        )
    return head + prompt[len(prompt) - (room - len(head)) :]


def encode_cached(
    examples: Sequence[Example], tokenizer: Any, template: str, max_tokens: int | None
) -> Encoded:
    """Return `encode` of the same arguments, from the cache where it was computed before."""
    key = sha256_of(
        {
            "format": _CACHE_FORMAT,
            "tokenizer": _tokenizer_identity(tokenizer),
            "template": template_identity(template),
            "max_tokens": max_tokens,
            "examples": [[e.instruction, e.input, e.output] for e in examples],
        }
    )
    path = cache_folder() / "tokens" / f"{key}.npz"
    cached = _read_cache(path)
    if cached is None:
        cached = encode(examples, tokenizer, template, max_tokens)
        _write_cache(path, cached)
    return cached


def _tokenizer_identity(tokenizer: Any) -> str:
    return sha256_of([tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id])


def _read_cache(path: Path) -> Encoded | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Encoded(
                arrays["ids"],
                arrays["starts"],
                arrays["prompt_lengths"],
                int(arrays["truncated"]),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged: it is made again


def _write_cache(path: Path, encoded: Encoded) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as handle:
            np.savez(
                handle,
                ids=encoded.ids,
                starts=encoded.starts,
                prompt_lengths=encoded.prompt_lengths,
                truncated=np.array(encoded.truncated),
            )
        os.replace(handle.name, path)
    except OSError:
        return  # a cache that cannot be written costs time, not the trial


@dataclass(frozen=True)
class BatchPlan:
    """Which items each optimizer step sees."""

    lengths: np.ndarray  # tokens of each item, (items,)
    batch_size: int  # items an optimizer step sees
    accumulation: int  # equal parts that a batch is split into
    seed: int

    @property
    def steps_in_epoch(self) -> int:
        """Optimizer steps that use each item at most once; a remainder waits for other epochs."""
        return len(self.lengths) // self.batch_size

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Return the item numbers of each batch of an epoch, longest last within a batch."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        order = order[: self.steps_in_epoch * self.batch_size]
        bucket = self.batch_size * _BATCHES_PER_BUCKET
        batches = []
        for start in range(0, len(order), bucket):
            chosen = order[start : start + bucket]
            chosen = chosen[np.argsort(self.lengths[chosen], kind="stable")]
            batches += np.split(chosen, range(self.batch_size, len(chosen), self.batch_size))
        return [batches[index] for index in generator.permutation(len(batches))]


class StepBatches(Dataset[dict[str, Any]]):
    """The forward passes of a range of optimizer steps, in order.

    Each is a batch of `collate` with `shares`: what it is of its step, the values of a `StepShare`.
    """

    def __init__(
        self, encoded: Encoded, plan: BatchPlan, pad: int, loss_mask: str, first: int, last: int
    ) -> None:
        """Serve steps first (from 0) to last, exclusive; `pad` is the padding token's id."""
        self._encoded, self._plan, self._pad, self._loss_mask = encoded, plan, pad, loss_mask
        self._first, self._last = first, last
        self._epoch, self._batches = -1, []  # type: tuple[int, list[np.ndarray]]

    def __len__(self) -> int:
        return (self._last - self._first) * self._plan.accumulation

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, part = divmod(index, self._plan.accumulation)
        epoch, position = divmod(step + self._first, self._plan.steps_in_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._plan.epoch(epoch)
        whole = self._batches[position]
        items = np.split(whole, self._plan.accumulation)[part]
        batch = collate(self._encoded, items.tolist(), self._pad, self._loss_mask)
        return batch | {"shares": self._shares(items, whole)}

    def _shares(self, items: np.ndarray, whole: np.ndarray) -> tuple[float, ...]:
        """Return what `items` are of their step: of its learned tokens, and of all its tokens."""
        tokens = self._encoded.lengths
        learned = (
            tokens - self._encoded.prompt_lengths if self._loss_mask == "answer" else tokens - 1
        )
        return tuple(float(n[items].sum() / n[whole].sum()) for n in (learned, tokens))


def collate(
    encoded: Encoded, items: Sequence[int], pad: int, loss_mask: str = "answer"
) -> dict[str, Tensor]:
    """Return input_ids, attention_mask, answer_mask and labels, each (len(items), longest).

    Padding is on the left, so that responses end together: the logits that the loss needs are
    then the last few of every row. `answer_mask` is 1 at response tokens.
    """
    ids, mask = left_padded([encoded.item(index) for index in items], pad)
    answer_mask = torch.zeros_like(mask)
    for row, index in enumerate(items):
        response = int(encoded.lengths[index] - encoded.prompt_lengths[index])
        answer_mask[row, mask.shape[1] - response :] = 1
    learned = answer_mask
    if loss_mask == "all":  # all but each row's first token, which nothing predicts
        learned = mask.clone()
        learned[:, 0] = 0
        learned[:, 1:] *= mask[:, :-1]
    labels = torch.where(learned.bool(), ids, IGNORED)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "answer_mask": answer_mask,
        "labels": labels,
    }


class TrainingData(pl.LightningDataModule):
    """Lightning's view of the training batches that are still to be seen."""

    def __init__(
        self, encoded: Encoded, plan: BatchPlan, tokenizer: Any, loss_mask: str, steps: range
    ) -> None:
        """Serve the optimizer steps of `steps`.

        Raises:
            InputError: there are fewer items than one batch holds.
        """
        super().__init__()
        if plan.steps_in_epoch == 0:
            raise InputError(
                f"the training tasks have {len(encoded)} items, fewer than "
                f"train.batch_size={plan.batch_size}; lower it or add tasks."
            )
        pad = padding_token(tokenizer)
        self._batches = StepBatches(encoded, plan, pad, loss_mask, steps.start, steps.stop)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the batches as they are: they are formed already."""
        return DataLoader(self._batches, batch_size=None, shuffle=False)
