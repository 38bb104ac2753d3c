"""Pre-trains the tiny backbone on the world: `python -m gatera.backbones.pretrain --out DIR`.

Prints its progress and saves configuration, tokenizer and bfloat16 weights. First the skills that
need no facts (copying, finding the label behind a word) beside the bare facts, then every kind of
text. A decision names the true value, then its label: a model of this size learns to look up a
label behind a word that it has just said, not behind one that it would have said.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gatera.backbones import world

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")

# Shares of documents while the skills form, and afterwards.
SKILLS = {"repeat": 1.0, "drill": 1.5, "statements": 1.0, "open": 1.0}
EVERYTHING = {
    "repeat": 0.2,
    "drill": 0.7,
    "statements": 0.7,
    "open": 1.0,
    "choice": 1.0,
    "completion": 1.0,
    "unlike": 1.0,
    "claim": 1.5,
    "filler": 0.1,
}
MEASURED = tuple(kind for kind in EVERYTHING if kind != "filler")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int = 4000
    skill_steps: int = 500  # steps on `SKILLS` alone
    learning_rate: float = 2e-3  # the largest, reached after the warm-up, then a cosine to 0
    warmup_steps: int = 100
    rows: int = 32  # sequences in a batch
    width: int = 48  # tokens in a sequence, several documents each

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * rise * (1 + math.cos(math.pi * step / self.steps)) / 2


def make_tokenizer() -> Any:
    """Return the word-level tokenizer: words, runs of #, `...`, other marks one by one.

    White space is not kept; decoding joins with single spaces.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    words = {word: i for i, word in enumerate((*SPECIAL, *world.vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    pattern = Regex(r"\w+|#+|\.\.\.|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", words["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def make_model(vocabulary_size: int, seed: int) -> Any:
    """Return the untrained model.

    Queries and keys start alike, so that a token attends to its own other occurrences from the
    beginning: copying forms sooner (mimetic initialization, arXiv:2305.09828).
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    size = config.hidden_size
    for layer in model.model.layers:
        attention = layer.self_attn
        shared = torch.randn(size, size) * size**-0.5
        value = torch.randn(size, size) * 0.7 * size**-0.5
        attention.q_proj.weight.data = shared + 0.03 * torch.randn(size, size)
        attention.k_proj.weight.data = shared + 0.03 * torch.randn(size, size)
        attention.v_proj.weight.data = value
        attention.o_proj.weight.data = 0.7 * value.T.contiguous()
    return model


class Batches:
    """Packs marked documents into rows of token ids and loss weights."""

    def __init__(self, source: world.TextSource, ids: dict[str, int], width: int) -> None:
        self.source = source
        self.ids = ids
        self.width = width

    def encode(self, text: str) -> tuple[list[int], list[float]]:
        """Return the ids and weights of one document; unpredictable words weigh little."""
        words = ["<bos>", *text.split(), "<eos>"]
        marked = [word.startswith(world.MARK) for word in words]
        ids = [self.ids[word.removeprefix(world.MARK)] for word in words]
        return ids, [1.0 if mark else 0.03 for mark in marked]

    def row(self, shares: dict[str, float]) -> tuple[list[int], list[float]]:
        """Fill one row with as many documents as fit, at least one."""
        ids: list[int] = []
        weights: list[float] = []
        while True:
            kind = self.source.rng.choices(list(shares), list(shares.values()))[0]
            more_ids, more_weights = self.encode(self.source.draw(kind))
            if len(ids) + len(more_ids) > self.width:
                if ids:
                    break
                continue
            ids += more_ids
            weights += more_weights
        padding = self.width - len(ids)
        return ids + [0] * padding, weights + [0.0] * padding

    def draw(self, rows: int, shares: dict[str, float]) -> tuple[Tensor, Tensor]:
        """Return (ids, weights), both (rows, width)."""
        drawn = [self.row(shares) for _ in range(rows)]
        return torch.tensor([ids for ids, _ in drawn]), torch.tensor([w for _, w in drawn])


def weighted_loss(model: Any, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the mean next-token loss under these weights, both (rows, width)."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    targets = ids[:, 1:].reshape(-1)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
    weight = weights[:, 1:].reshape(-1)
    return (losses * weight).sum() / weight.sum()


@torch.no_grad()
def accuracies(
    model: Any, ids: dict[str, int], kinds: Sequence[str], rows: int
) -> dict[str, float]:
    """Return, for each kind of text, how many marked words are the likeliest continuation."""
    model.eval()
    found = {}
    for kind in kinds:
        batches = Batches(world.TextSource(random.Random(f"measure {kind}")), ids, width=64)
        tokens, weights = batches.draw(rows, {kind: 1.0})
        guesses = model(input_ids=tokens, use_cache=False).logits[:, :-1].argmax(-1)
        marked = weights[:, 1:] == 1.0
        found[kind] = float((guesses == tokens[:, 1:])[marked].float().mean())
    model.train()
    return found


def train(
    model: Any,
    ids: dict[str, int],
    schedule: Schedule,
    seed: int,
    log_every: int,
    keep: Callable[[], None],
) -> None:
    """Train in place; print accuracies and call `keep` every `log_every` steps."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    source = world.TextSource(random.Random(f"pretrain {seed}"))
    batches = Batches(source, ids, schedule.width)
    loss_of: Callable[[Any, Tensor, Tensor], Tensor] = torch.compile(weighted_loss)
    started = time.perf_counter()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(step)
        shares = SKILLS if step < schedule.skill_steps else EVERYTHING
        loss = loss_of(model, *batches.draw(schedule.rows, shares))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % log_every == 0:
            found = {k: round(v, 3) for k, v in accuracies(model, ids, MEASURED, 32).items()}
            seconds = time.perf_counter() - started
            print(f"{step + 1} {seconds:.0f}s loss {loss.item():.3f} {found}", flush=True)
            keep()


def save(model: Any, tokenizer: Any, out: Path, made_by: dict[str, str]) -> None:
    """Write configuration, tokenizer and bfloat16 weights that say how they were made."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(out)
    state = {
        k: v.to(torch.bfloat16) for k, v in model.state_dict().items() if k != "lm_head.weight"
    }
    save_file(state, out / "model.safetensors", metadata={"format": "pt", **made_by})


def main() -> None:
    """Read the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--log-every", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    ids = tokenizer.get_vocab()
    model = make_model(len(ids), arguments.seed)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(ids)} words", flush=True)
    schedule = Schedule(steps=arguments.steps)
    made_by = {
        "script": "gatera.backbones.pretrain",
        "seed": str(arguments.seed),
        "schedule": json.dumps(vars(schedule)),
    }

    def keep() -> None:
        save(model, tokenizer, arguments.out, made_by)

    train(model, ids, schedule, arguments.seed, arguments.log_every, keep)
    keep()


if __name__ == "__main__":
    main()
