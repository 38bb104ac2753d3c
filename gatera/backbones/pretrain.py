"""Pre-trains the tiny backbone on the world: `python -m gatera.backbones.pretrain --out DIR`.

Prints its progress and saves configuration, tokenizer and bfloat16 weights. All kinds of text are
mixed from the beginning. A decision names the true value, then its label, since looking a label up
behind a word just said takes one step fewer than behind a word that would have been said.
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

from gatera.backbones import world, world_text

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")

HIDDEN = 128
HEAD = 32
ROPE_THETA = 1e6  # slow rotations: contexts are short, and words are found by content

SHARES = {
    "repeat": 0.2,
    "drill": 0.7,
    "statements": 0.8,
    "open": 0.8,
    "choice": 1.0,
    "completion": 1.0,
    "unlike": 1.0,
    "claim": 1.2,
    "second": 0.8,
    "dictionary": 0.1,
    "sums": 0.9,
    "doings": 0.2,
    "filler": 0.1,
}
MEASURED = tuple(kind for kind in SHARES if kind != "filler")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Training stops in the middle of the cosine; all kinds of text are answered by then. A model of
    an earlier, smaller world that was trained to the end held on to its own formats: 100 steps of
    HiRA left it near chance on the task families.
    """

    steps: int = 1600
    cosine_steps: int = 3200  # step at which the learning rate would be 0
    learning_rate: float = 2e-3  # the largest, reached after the warm-up
    warmup_steps: int = 100
    rows: int = 32  # sequences in a batch
    width: int = 48  # tokens in a sequence, several documents each

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * rise * (1 + math.cos(math.pi * step / self.cosine_steps)) / 2


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
    """Return the untrained model, initialized as an induction circuit."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=HIDDEN,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=HIDDEN // HEAD,
        num_key_value_heads=HIDDEN // HEAD,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    initialize_as_induction(model)
    return model


@torch.no_grad()
def initialize_as_induction(model: Any) -> None:
    """Let the first head of each layer start as part of an induction circuit.

    A network of this size takes long to find out how to look a word up in its context: two layers
    must agree on it. Here they agree from the start, in the spirit of mimetic initialization
    (arXiv:2305.09828), and training does the rest; without it, choosing among labelled options
    stayed at chance for as long as was tried.

    - The embeddings share a component (dimension 0). Queries and keys of head 0 in layer 0 see it
      alone, the keys turned on by one position: the head attends to the token before, and writes a
      code of it beside the current token.
    - Head 0 of each later layer compares the current token's code with those codes, in the slots
      that the rotary embedding turns slowly, and so attends to what followed the token before. It
      copies that token to the output, whose embedding is tied.
    - Everything else starts small, so as not to drown this.
    """
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = embedding.norm(dim=1).mean()
    layers = list(model.model.layers)
    for layer in layers:
        layer.mlp.down_proj.weight *= 0.1
        layer.self_attn.o_proj.weight *= 0.1
    code, written = _orthogonal_rows(HEAD), _orthogonal_rows(HEAD)
    _attend_to_the_token_before(layers[0].self_attn)
    layers[0].self_attn.v_proj.weight[:HEAD] = 0.5 * code
    layers[0].self_attn.o_proj.weight[:, :HEAD] = 0.2 * written.T
    half = HEAD // 2
    slow = [*range(half // 4, half), *range(half + half // 4, HEAD)]
    for layer in layers[1:]:
        attention, copied = layer.self_attn, _orthogonal_rows(HEAD)
        attention.q_proj.weight[:HEAD] = 0
        attention.k_proj.weight[:HEAD] = 0
        attention.q_proj.weight[slow] = 2 * code[: len(slow)]
        attention.k_proj.weight[slow] = 2 * written[: len(slow)]
        attention.v_proj.weight[:HEAD] = 0.5 * copied
        attention.o_proj.weight[:, :HEAD] = 0.3 * copied.T


def _orthogonal_rows(count: int) -> Tensor:
    """Return (count, HIDDEN) orthonormal rows that do not see the shared component."""
    rows: Tensor = torch.linalg.qr(torch.randn(HIDDEN, count))[0].T
    rows[:, 0] = 0
    return rows


def _attend_to_the_token_before(attention: Any) -> None:
    """Set head 0's queries and keys to agree at a distance of one token.

    A query q and a key k at distance d score q · R(d) k, with R the rotary embedding's rotation;
    k = R(-1) q makes that largest one token back. The three fastest rotations tell distances apart.
    """
    half = HEAD // 2
    angles = ROPE_THETA ** -(torch.arange(half) / half)
    lengths = torch.zeros(half)
    lengths[:3] = torch.tensor([0.6, 0.25, 0.15]).sqrt()
    query = torch.cat([lengths, torch.zeros(half)])
    key = torch.cat([lengths * angles.cos(), lengths * angles.sin()])
    # RMSNorm brings the shared component to about sqrt(HIDDEN / 2); a score of 16 is sharp.
    scale = (16 * HEAD**0.5) ** 0.5 / (HIDDEN / 2) ** 0.5
    attention.q_proj.weight[:HEAD] = 0
    attention.k_proj.weight[:HEAD] = 0
    attention.q_proj.weight[:HEAD, 0] = scale * query
    attention.k_proj.weight[:HEAD, 0] = scale * key


class Batches:
    """Packs marked documents into rows of token ids and loss weights."""

    def __init__(self, source: world_text.TextSource, ids: dict[str, int], width: int) -> None:
        self.source = source
        self.ids = ids
        self.width = width

    def encode(self, text: str) -> tuple[list[int], list[float]]:
        """Return the ids and weights of one document; unpredictable words weigh little."""
        words = ["<bos>", *text.split(), "<eos>"]
        marked = [word.startswith(world_text.MARK) for word in words]
        ids = [self.ids[word.removeprefix(world_text.MARK)] for word in words]
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
        batches = Batches(world_text.TextSource(random.Random(f"measure {kind}")), ids, width=64)
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
    source = world_text.TextSource(random.Random(f"pretrain {seed}"))
    batches = Batches(source, ids, schedule.width)
    loss_of: Callable[[Any, Tensor, Tensor], Tensor] = torch.compile(weighted_loss)
    started = time.perf_counter()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(step)
        loss = loss_of(model, *batches.draw(schedule.rows, SHARES))
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
    from safetensors.torch import save as serialize

    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(out)
    state = {
        k: v.to(torch.bfloat16) for k, v in model.state_dict().items() if k != "lm_head.weight"
    }
    metadata = {"format": "pt", **made_by}
    (out / "model.safetensors").write_bytes(serialize(state, metadata))


def main() -> None:
    """Read the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Schedule.steps)
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
