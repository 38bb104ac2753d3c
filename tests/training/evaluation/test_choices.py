"""The log-likelihoods of options, against one pass for each option alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gatera import backbones
from gatera.adapter.gates import GATES
from gatera.errors import InputError
from gatera.tasks import beginnings
from gatera.tasks.example import Example
from gatera.training.adapting import attach
from gatera.training.data import encode
from gatera.training.evaluation import choices
from gatera.training.evaluation.choices import TOKENWISE_GATES, log_likelihoods, may_pack

THINGS = ("sea", "sand", "night", "bone")
OPTIONS = [
    ("the correct answer is true", "the correct answer is false"),
    ("sky", "sky is blue", "grass is green with snow", "the"),  # one begins as another does
    (),
    tuple(f"{one} over {other}" for one in ("coal", "sun", "rose") for other in THINGS),
    ("the correct answer is true", "true"),
]
EXAMPLES = [
    Example(f"question {'sky is ' * n}?", "", options[0] if options else "sky", "true", options)
    for n, options in enumerate(OPTIONS)
]


@pytest.fixture
def backbone(backbone_folder: Path) -> Any:
    return backbones.load(f"hub:{backbone_folder}", "float32")


def adapted(backbone: Any, gate: str) -> Any:
    torch.manual_seed(1)
    section = {
        "method": "gatera",
        "r": 3,
        "gate": gate,
        "init_weights": False,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "gate_init_std": 1.0,
    }
    return attach(backbone.model, section).eval()


def alone(model: Any, tokenizer: Any, prompt: list[int], option: str, alike: int) -> float:
    """Return the log-likelihood of an option but for its first tokens, one token after another."""
    response = [*tokenizer(option, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    total = 0.0
    for n in range(alike, len(response)):
        ids = torch.tensor([[*prompt, *response[:n]]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1].double()
        total += float(logits[response[n]] - logits.logsumexp(0))
    return total


@pytest.mark.parametrize("gate", [None, *GATES])
def test_options_weigh_what_they_weigh_alone(gate: str | None, backbone: Any) -> None:
    model, tokenizer = backbone.model, backbone.tokenizer
    if gate is not None:
        model = adapted(backbone, gate)
    encoded = encode(EXAMPLES, tokenizer, "alpaca", None)
    asked = choices.encode_choices(OPTIONS, encoded, tokenizer)
    assert sorted(asked) == [0, 1, 3, 4]
    ways = [False, True] if may_pack(model, gate) else [False]
    assert len(ways) == (1 if gate == "attention" else 2)
    for packs in ways:
        found: dict[int, list[float]] = {}
        for batch in log_likelihoods(model, tokenizer, asked, 3, packs=packs):
            found |= batch
        for place, options in enumerate(OPTIONS):
            prompt = encoded.prompt(place)
            alike = {0: 4, 1: 0, 3: 0, 4: 0}.get(place)
            if alike is None:
                assert place not in found
                continue
            assert len(asked[place].shared) == len(prompt) + alike
            expected = [alone(model, tokenizer, prompt, each, alike) for each in options]
            assert found[place] == pytest.approx(expected, abs=2e-5)


def test_side_by_side_is_refused_for_a_gate_that_reads_the_tokens_before(backbone: Any) -> None:
    model = adapted(backbone, "attention")
    encoded = encode(EXAMPLES, backbone.tokenizer, "alpaca", None)
    asked = choices.encode_choices(OPTIONS, encoded, backbone.tokenizer)
    with pytest.raises(InputError, match="attention"):
        list(log_likelihoods(model, backbone.tokenizer, asked, 3, packs=True))
    assert set(TOKENWISE_GATES) == set(GATES) - {"attention"}
    assert not may_pack(model, "mine.py:Mine")  # nobody knows what it reads


def test_what_is_known_is_not_computed_again(backbone: Any) -> None:
    encoded = encode(EXAMPLES, backbone.tokenizer, "alpaca", None)
    asked = choices.encode_choices(OPTIONS, encoded, backbone.tokenizer)
    arguments = (backbone.model, backbone.tokenizer, asked, 2)
    batches = list(log_likelihoods(*arguments, packs=True))
    assert [len(batch) for batch in batches] == [2, 2]
    again = list(log_likelihoods(*arguments, packs=True, known=batches[0]))
    assert again == batches[1:]


def test_the_right_option_is_weighed_against_the_others() -> None:
    found = choices.right_log_probability([-3.0, -1.0, -2.0], 2)
    total = math.exp(-3) + math.exp(-1) + math.exp(-2)
    assert found == pytest.approx(math.log(math.exp(-2) / total))
    far = choices.right_log_probability([-2000.0, -1000.0], 0)  # no underflow
    assert far == pytest.approx(-1000.0)
    assert choices.right_log_probability([-5.0], 0) == 0.0


def test_what_all_items_begin_with_is_read_once(backbone: Any) -> None:
    model, tokenizer = adapted(backbone, "token"), backbone.tokenizer
    encoded = encode(EXAMPLES, tokenizer, "alpaca", None)
    asked = choices.encode_choices(OPTIONS, encoded, tokenizer)
    seen: list[int] = []
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape[1]))
    list(log_likelihoods(model, tokenizer, asked, 2, packs=True))
    begun = seen[0]
    assert begun >= beginnings.LEAST_TOKENS
    prompts = [encoded.prompt(place) for place in asked]
    assert len({tuple(prompt[:begun]) for prompt in prompts}) == 1
    assert len({tuple(prompt[: begun + 1]) for prompt in prompts}) > 1
    apart, seen[:] = seen[1:], []
    list(log_likelihoods(model, tokenizer, asked, 2, packs=False))
    assert max(apart) + begun <= max(seen) + sum(len(each) for each in asked[3].rests)
    assert min(seen) > begun  # where each option has a row of its own, all is read
