"""Prompt templates: how an example is put to a language model."""

from __future__ import annotations

from dataclasses import dataclass

from gatera.errors import InputError
from gatera.tasks.example import Example
from gatera.trial import sha256_of


@dataclass(frozen=True)
class Template:
    """Two wordings of a prompt; the model's response follows right after it."""

    without_input: str  # holds {instruction}
    with_input: str  # holds {instruction} and {input}


# The wording of Stanford Alpaca (tatsu-lab/stanford_alpaca @ 761dc5bfbdee), which LLM-Adapters,
# HiRA and GateRA train and test with.
_ALPACA = Template(
    without_input=(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:\n"
    ),
    with_input=(
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    ),
)

# The question and nothing else, for short contexts and small vocabularies.
_PLAIN = Template(without_input="{instruction}\n", with_input="{instruction}\n{input}\n")

TEMPLATES: dict[str, Template] = {"alpaca": _ALPACA, "plain": _PLAIN}


def _template(name: str) -> Template:
    if name not in TEMPLATES:
        raise InputError(
            f"unknown prompt template {name!r}; known templates: {', '.join(sorted(TEMPLATES))}."
        )
    return TEMPLATES[name]


def render_prompt(name: str, example: Example) -> str:
    """Return the text that stands before the response.

    Args:
        name: A key of `TEMPLATES`.
        example: The item to ask.

    Raises:
        InputError: no template has this name.
    """
    template = _template(name)
    text = template.with_input if example.input else template.without_input
    # Replaced in one pass over the template's own parts: a question may hold braces itself.
    head, tail = text.split("{instruction}")
    return head + example.instruction + tail.replace("{input}", example.input)


def template_identity(name: str) -> str:
    """Return the SHA-256 of a template's wording.

    Raises:
        InputError: no template has this name.
    """
    template = _template(name)
    return sha256_of([template.without_input, template.with_input])
