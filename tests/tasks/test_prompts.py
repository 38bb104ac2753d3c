"""Prompt templates."""

import pytest

from gatera.errors import InputError
from gatera.tasks.example import Example
from gatera.tasks.prompts import TEMPLATES, render_prompt, template_identity


def test_alpaca_without_input() -> None:
    prompt = render_prompt("alpaca", Example("Is {input} wet?", "", "o", "a"))
    assert prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nIs {input} wet?\n\n### Response:\n"
    )


def test_alpaca_with_input() -> None:
    prompt = render_prompt("alpaca", Example("Is {it} wet?", "It: {instruction}", "o", "a"))
    assert prompt.endswith(
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nIs {it} wet?\n\n### Input:\nIt: {instruction}\n\n### Response:\n"
    )


def test_templates_have_identities_of_their_own() -> None:
    assert len({template_identity(name) for name in TEMPLATES}) == len(TEMPLATES)
    assert len(template_identity("alpaca")) == 64


def test_an_unknown_template_is_told_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="'llama'; known templates: alpaca, plain"):
        render_prompt("llama", Example("i", "", "o", "a"))
