"""Made-up gates of made-up texts: what reports on gates are tested on."""

from __future__ import annotations

import numpy as np

from gatera.reports.gates.effects import GateRow
from gatera.training.evaluation.gated_tokens import GatedModule, GatedText, TokenGates

MODULES = tuple(
    GatedModule(f"model.layers.{layer}.{name}")
    for layer in range(4)
    for name in ("self_attn.q_proj", "mlp.up_proj")
)


def make_text(values, prompt_tokens, *, task="boolq", index=0, cluster="", **fields):
    """Return a text of which `values` are the gates, (modules, tokens)."""
    values = np.asarray(values, dtype=np.float32)
    made = {
        "tokens": tuple(f"w{n}" for n in range(values.shape[1])),
        "closed": np.zeros(values.shape, bool),
        "output": "",
        "score": 1.0 if task else None,
        **fields,
    }
    return GatedText(
        task=task,
        index=index,
        cluster=cluster,
        prompt_tokens=prompt_tokens,
        values=values,
        **made,
    )


def make_row(texts, *, variant="gatera", constant=False, modules=MODULES, **fields):
    """Return a row of these texts, of a model with four layers."""
    tokens = TokenGates(modules, 4, constant, fields.pop("threshold", 0.0), tuple(texts))
    return GateRow(variant, 0, "static" if constant else "token", tokens, **fields)


def steady(before, after, *, tokens=(2, 3)):
    """Return gates that are `before` at each prompt token, `after` at each decoded one."""
    read, written = tokens
    row = [before] * read + [after] * written
    return np.array([row] * len(MODULES))
