"""Gates token by token, against the equation, computed from the inputs of the layers."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from gatera.adapter import record_gates
from gatera.errors import InputError
from gatera.tasks.decoding import Decoding
from gatera.tasks.example import Example
from gatera.training.adapting import adapt
from gatera.training.evaluation.token_gates import (
    Prompt,
    gates_of_trial,
    own,
    token_gates,
    token_texts,
)

QUESTIONS = ("question sky ?", "question snow is the green ?", "question coal near sea true false")
ADAPTER = {"method": "gatera", "r": 3, "target_modules": ["q_proj", "down_proj"]}
NEW = 5  # tokens


@pytest.fixture
def tokenizer(backbone_folder):
    return AutoTokenizer.from_pretrained(backbone_folder)


@pytest.fixture
def adapted(backbone_folder):
    """Return a function that makes a model whose adapters and gates have random values."""

    def make(**section):
        model = AutoModelForCausalLM.from_pretrained(backbone_folder)
        model = adapt(model, {**ADAPTER, **section}, seed=1).eval()
        generator = torch.Generator().manual_seed(2)
        for name, parameter in model.named_parameters():
            if "gatera_" in name:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.data = drawn * (0.6 if "gate." in name else 0.2)
        return model

    return make


def prompts_of(tokenizer):
    return [
        Prompt("", place, tokenizer(text)["input_ids"], Example(text, "", "", ""))
        for place, text in enumerate(QUESTIONS)
    ]


@contextlib.contextmanager
def inputs_of(layers):
    """Collect what each layer is given, pass by pass."""
    seen = {name: [] for name in layers}
    with contextlib.ExitStack() as stack:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(
                lambda _, args, name=name: seen[name].append(args[0].double().numpy())
            )
            stack.callback(hook.remove)
        yield seen


def by_hand(model, tokenizer, prompts, end):
    """Return σ(w·x + b) in float64 at each token while `generate` runs, and what it wrote."""
    layers = {n: m for n, m in model.named_modules() if n.endswith(("q_proj", "down_proj"))}
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), 2)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, longest - len(prompt.ids) :] = 1
    how = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=2
    )
    with torch.no_grad(), inputs_of(layers) as seen:
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
    written = output[:, longest:].tolist()
    values = []
    for row, prompt in enumerate(prompts):
        length = written[row].index(end) if end in written[row] else len(written[row]) - 1
        of_row = []
        for name, layer in layers.items():
            x = np.concatenate([each[row] for each in seen[name]])  # (tokens, in)
            x = x[longest - len(prompt.ids) : longest + length]
            gate = layer.gatera_gate["default"]
            w, b = (p.detach().double().numpy() for p in (gate.weight, gate.bias))
            of_row.append(1 / (1 + np.exp(-(x @ w[0] + b[0]))))
        values.append((np.stack(of_row), length))
    return values, written


def test_values_match_the_equation_while_reading_and_writing(adapted, tokenizer):
    model, prompts = adapted(), prompts_of(tokenizer)
    _, written = by_hand(model, tokenizer, prompts, end=1)
    end = written[0][2]  # so that one answer ends before the others do
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    expected, _ = by_hand(model, tokenizer, prompts, end)
    assert len({length for _, length in expected}) > 1

    found = token_gates(model, tokenizer, [(prompts, Decoding(NEW, batch_size=2))])

    names = [module.name.removeprefix("model.layers.") for module in found.modules]
    assert names == [
        *("0.self_attn.q_proj", "0.mlp.down_proj"),
        *("1.self_attn.q_proj", "1.mlp.down_proj"),
    ]
    assert (found.layers, found.constant, found.threshold) == (2, False, 0.0)
    for text, prompt, (values, length) in zip(found.texts, prompts, expected, strict=True):
        assert (text.prompt_tokens, text.decoded_tokens) == (len(prompt.ids), length)
        np.testing.assert_allclose(text.values, values, rtol=0, atol=2e-5)
        assert text.values.std() > 0.05


def test_tokens_are_those_of_prompt_and_answer_but_for_the_last(adapted, tokenizer):
    model, prompts = adapted(), prompts_of(tokenizer)
    _, written = by_hand(model, tokenizer, prompts, end=1)
    found = token_gates(
        model, tokenizer, [(prompts[:2], Decoding(NEW)), (prompts[2:], Decoding(2))]
    )
    for text, question, ids, count in zip(found.texts, QUESTIONS, written, (5, 5, 2), strict=True):
        assert " ".join(text.tokens[: text.prompt_tokens]) == question
        answer = tokenizer.convert_ids_to_tokens(ids[:count])
        assert list(text.tokens[text.prompt_tokens :]) == answer[:-1]
        assert text.output == " ".join(answer)


@pytest.mark.parametrize(
    "section",
    [{"gate": "channel"}, {"gate": "mlp"}, {"gate_sharing": "block"}, {"gate": "attention"}],
    ids=str,
)
def test_other_gates_have_their_means(adapted, tokenizer, section):
    model, prompts = adapted(**section), prompts_of(tokenizer)
    found = token_gates(model, tokenizer, [(prompts, Decoding(1))])
    for text, prompt in zip(found.texts, prompts, strict=True):
        with torch.no_grad(), record_gates(model) as gates:
            model(input_ids=torch.tensor([prompt.ids]))
        means = {name: each["mean"] for name, each in gates.statistics().items()}
        read = dict(zip((m.name for m in found.modules), text.values.mean(1), strict=True))
        assert read == pytest.approx(means, abs=1e-5)
    kinds = [module.kind for module in found.modules]
    assert ("block" in kinds) == ("gate_sharing" in section)


def test_a_static_gate_is_constant_and_a_threshold_closes(adapted, tokenizer):
    prompts = prompts_of(tokenizer)
    constant = token_gates(adapted(gate="static"), tokenizer, [(prompts, Decoding(2))])
    assert constant.constant
    assert all(np.ptp(text.values, axis=1).max() == 0 for text in constant.texts)
    closing = token_gates(adapted(gate_threshold=0.5), tokenizer, [(prompts, Decoding(2))])
    assert closing.threshold == 0.5
    for text in closing.texts:
        np.testing.assert_array_equal(text.closed, text.values < 0.5)


def test_what_has_no_gate_is_refused(adapted, tokenizer):
    with pytest.raises(InputError, match="nothing in this model is gated"):
        token_gates(adapted(gate="none"), tokenizer, [(prompts_of(tokenizer), Decoding(1))])


def test_a_prompt_of_ones_own_stands_in_the_template(tokenizer):
    (prompt,) = own(["is snow white ?"], tokenizer, "alpaca", None)
    read = tokenizer.decode(prompt.ids)
    assert "Instruction : is snow white ?" in read
    assert read.endswith("Response :")
    with pytest.raises(InputError, match="an empty prompt was given"):
        own([" "], tokenizer, "alpaca", None)


def test_a_trial_is_read_on_its_test_items(adapted, make_trial, data_root, tmp_path):
    section = {"r": 3, "target_modules": ["q_proj", "down_proj"]}
    adapted().save_pretrained(tmp_path)
    found = gates_of_trial(
        make_trial(adapter=section), tmp_path, data_root=data_root, own_prompts=["is it ?"]
    )
    assert [text.task for text in found.texts] == [""] + ["boolq"] * 11  # eval.limit
    assert found.texts[0].score is None
    assert {text.score for text in found.texts[1:]} <= {0.0, 1.0}
    few = gates_of_trial(make_trial(), tmp_path, data_root=data_root, items_per_task=3)
    assert len(few.texts) == 3


def test_a_token_keeps_the_space_before_it():
    class SentencePiece:
        def convert_ids_to_tokens(self, ids):
            return [("▁a", "b", "<0x0A>")[n] for n in ids]

        def decode(self, ids):
            return ("a", "b", "\n")[ids[0]]

    assert token_texts(SentencePiece(), [0, 1, 2]) == (" a", "b", "\n")
