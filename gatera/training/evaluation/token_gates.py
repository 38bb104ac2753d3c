"""The gates token by token: while a model reads prompts, and while it writes after them.

Responses are decoded as scoring decodes them. A second pass over prompt and response, without a
cache, then reads the gates of all their tokens: each is what it was while the response was
written, since a gate sees nothing of what comes after its token.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gatera import tasks
from gatera.adapter import GateStatistics, record_gates
from gatera.adapter.finding import base_model
from gatera.errors import InputError
from gatera.settings import EvalSettings
from gatera.tasks.decoding import Decoding, generate, left_padded, padding_token
from gatera.tasks.example import Example
from gatera.tasks.mixture import Item
from gatera.training import stage
from gatera.training.adapting import attach_trained
from gatera.training.data import encode
from gatera.training.evaluation.gate_readings import ITEMS_PER_TASK
from gatera.training.evaluation.gated_tokens import GatedModule, GatedText, TokenGates
from gatera.training.evaluation.scoring import Questions
from gatera.trial import Trial


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens, and where it comes from."""

    task: str  # "" of a prompt of the user's own
    index: int
    ids: Sequence[int]
    example: Example


def gates_of_trial(
    trial: Trial,
    adapter: Path,
    *,
    data_root: Path | None,
    own_prompts: Sequence[str] = (),
    items_per_task: int = ITEMS_PER_TASK,
) -> TokenGates:
    """Return the gates of a trained trial on the first test items of its tasks.

    Args:
        trial: Whose model it is.
        adapter: The folder of its weights, as PEFT saved them.
        data_root: Root of the real data sets; None as in `gatera.tasks.load`.
        own_prompts: Questions of one's own, put into the trial's template; they come first.
        items_per_task: How many items of each task, the first by content hash, as scoring orders
            them.

    Raises:
        InputError: the data or the backbone are not those of the trial, or a prompt is empty.
    """
    stage.quieten_libraries()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # not called by us
    stage.check_identities(trial, data_root, ("test",))
    config = trial.located_config
    settings = EvalSettings(**config["eval"])
    backbone = stage.load_backbone(trial)
    model = attach_trained(backbone.model, config["adapter"], adapter)
    tokenizer, template = backbone.tokenizer, config["data"]["template"]
    asked: list[tuple[list[Prompt], Decoding]] = []
    if own_prompts:
        how = _decoding(settings, "")
        longest = stage.longest_prompt(model, how.max_new_tokens)
        asked.append((own(own_prompts, tokenizer, template, longest), how))
    count = min(items_per_task, settings.limit or items_per_task)
    for task in config["data"]["tasks"]:
        how = _decoding(settings, task)
        items = [Item(task, example) for example in tasks.load(task, "test", data_root)]
        longest = stage.longest_prompt(model, how.max_new_tokens)
        questions = Questions.of(items, count, tokenizer, template, longest)
        asked.append((_of_items(questions), how))
    return token_gates(model, tokenizer, asked)


def _decoding(settings: EvalSettings, task: str) -> Decoding:
    """Return how scoring decodes responses to a task."""
    tokens = settings.max_new_tokens
    if task:
        tokens = max(tokens, tasks.find(task).max_new_tokens)
    return Decoding(tokens, settings.beams, settings.batch_size)


def own(texts: Sequence[str], tokenizer: Any, template: str, longest: int | None) -> list[Prompt]:
    """Return prompts of one's own, as the model sees them: in a template, in tokens.

    Raises:
        InputError: one of them is empty, or there is no such template.
    """
    if not all(text.strip() for text in texts):
        raise InputError("an empty prompt was given; --prompt takes the text of a question.")
    examples = [Example(text, "", "", "") for text in texts]
    encoded = encode(examples, tokenizer, template, longest)
    return [Prompt("", place, encoded.prompt(place), each) for place, each in enumerate(examples)]


def _of_items(questions: Questions) -> list[Prompt]:
    places = zip(questions.items, questions.indices, strict=True)
    return [
        Prompt(item.task, index, questions.encoded.prompt(place), item.example)
        for place, (item, index) in enumerate(places)
    ]


def token_gates(
    model: Any, tokenizer: Any, asked: Sequence[tuple[Sequence[Prompt], Decoding]]
) -> TokenGates:
    """Return the gates at the tokens of prompts and of the responses decoded after them.

    Args:
        model: The adapted model; it is left in evaluation mode.
        tokenizer: Its tokenizer.
        asked: Prompts, with how their responses are decoded.

    Raises:
        InputError: nothing in the model is gated.
    """
    model.eval()
    prompts = [prompt for group, _ in asked for prompt in group]
    responses = [ids for group, how in asked for ids in _responses(model, tokenizer, group, how)]
    size = min((how.batch_size for _, how in asked), default=1)
    fed = [
        [*prompt.ids, *response[:-1]] for prompt, response in zip(prompts, responses, strict=True)
    ]
    readings = _read(model, padding_token(tokenizer), fed, size)
    if not readings or not readings[0].values:
        raise InputError("nothing in this model is gated; adapters with a gate were expected.")
    order = {name: place for place, (name, _) in enumerate(base_model(model).named_modules())}
    names = sorted(readings[0].values, key=lambda name: order.get(name, len(order)))
    texts = []
    for prompt, response, ids, reading in zip(prompts, responses, fed, readings, strict=True):
        output = tokenizer.decode(response, skip_special_tokens=True)
        text = GatedText(
            prompt.task,
            prompt.index,
            prompt.example.cluster,
            token_texts(tokenizer, ids),
            len(prompt.ids),
            np.stack([reading.values[name] for name in names]),
            np.stack([reading.closed[name] for name in names]),
            output,
            _worth(prompt, output),
        )
        texts.append(text)
    layers = int(getattr(base_model(model).config, "num_hidden_layers", 0))
    return TokenGates(
        tuple(GatedModule(name) for name in names),
        layers,
        readings[0].constant,
        readings[0].threshold,
        tuple(texts),
    )


def _worth(prompt: Prompt, output: str) -> float | None:
    if not prompt.task:
        return None
    task = tasks.find(prompt.task)
    return float(task.metric.of_item(output, task.extract(output), prompt.example))


class _Undecoded:
    """A tokenizer that gives back ids where text is wanted."""

    def __init__(self, tokenizer: Any) -> None:
        self.pad_token_id, self.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id

    def batch_decode(self, ids: list[list[int]], skip_special_tokens: bool) -> list[list[int]]:
        return ids


def _responses(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], how: Decoding
) -> list[list[int]]:
    """Return the ids that the model writes after each prompt, to the first that ends it.

    Scoring's own function generates them: another might choose other tokens.
    """
    found: dict[int, Any] = {}
    for generated in generate(model, _Undecoded(tokenizer), [p.ids for p in prompts], how):
        found |= generated
    end = tokenizer.eos_token_id
    return [_to_end(cast("list[int]", found[place]), end) for place in range(len(prompts))]


def _to_end(ids: list[int], end: int) -> list[int]:
    """Return ids without what pads a batch after the end-of-sequence token."""
    return ids[: ids.index(end) + 1] if end in ids else ids


@dataclass(frozen=True)
class _Reading:
    """The gates of one text, by module."""

    values: dict[str, np.ndarray]  # (tokens,)
    closed: dict[str, np.ndarray]  # (tokens,)
    constant: bool
    threshold: float


class _Values(GateStatistics):
    """Takes what a recorder adds to statistics, and keeps the values of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, np.ndarray] = {}  # module -> (batch, tokens), or () where constant
        self.closed: dict[str, np.ndarray] = {}
        self.threshold = 0.0

    def add(
        self, names: list[str], logits: Tensor, counted: Tensor | None, threshold: float = 0.0
    ) -> None:
        """Take gates given by their logits, (modules, *tokens, channels)."""
        gate = torch.sigmoid(logits if logits.dtype == torch.float64 else logits.float())
        closed = (gate < threshold).all(-1)  # a token is skipped where no channel is open
        self.threshold = max(self.threshold, threshold)
        self.values |= dict(zip(names, gate.mean(-1).float().cpu().numpy(), strict=True))
        self.closed |= dict(zip(names, closed.cpu().numpy(), strict=True))


def _read(model: Any, pad: int, texts: Sequence[Sequence[int]], size: int) -> list[_Reading]:
    """Return the gates at each token of texts, in their order; `size` texts in a pass."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found: dict[int, _Reading] = {}
    for start in range(0, len(order), size):
        places = order[start : start + size]
        of_batch = _read_batch(model, pad, [texts[place] for place in places])
        found |= dict(zip(places, of_batch, strict=True))
    return [found[place] for place in range(len(texts))]


def _read_batch(model: Any, pad: int, texts: Sequence[Sequence[int]]) -> Iterator[_Reading]:
    ids, mask = (tensor.to(model.device) for tensor in left_padded(texts, pad))
    read = _Values()
    with torch.no_grad(), record_gates(model, mask) as gates:
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            logits_to_keep=1,
            use_cache=False,
        )
        gates.add_to(read)
    constant = all(value.ndim == 0 for value in read.values.values())
    for row, text in enumerate(texts):
        values, closed = (
            {name: _of_row(found, row, len(text)) for name, found in by_name.items()}
            for by_name in (read.values, read.closed)
        )
        yield _Reading(values, closed, constant, read.threshold)


def _of_row(found: np.ndarray, row: int, tokens: int) -> np.ndarray:
    """Return what is of one text of a left-padded batch; a constant for each of its tokens."""
    if found.ndim == 0:
        return np.full(tokens, found)
    return found[row, found.shape[1] - tokens :].copy()


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Return each token as text, with the space before it where the token holds one."""
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    texts = []
    for id, piece in zip(ids, pieces, strict=True):
        text = tokenizer.decode([id])
        if piece.startswith("▁") and not text.startswith(" "):  # as SentencePiece writes a space
            text = f" {text}"
        texts.append(text)
    return tuple(texts)
