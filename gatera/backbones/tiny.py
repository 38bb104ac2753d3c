"""The embedded backbone: a LLaMA architecture of about a million parameters, shipped as weights.

`gatera.backbones.pretrain` made the files in `tiny_weights`; this module reads them and nothing
else. torch and transformers are imported inside `load`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "tiny_weights"


def load(dtype: str = "float32", quantization: str = "none") -> tuple[Any, Any]:
    """Return (model, tokenizer); the weights are stored in bfloat16 and cast to `dtype`.

    Args:
        dtype: A floating-point type's name, as torch spells it.
        quantization: As `backbones.load` has it.
    """
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from gatera.backbones.precision import loading

    model = LlamaForCausalLM.from_pretrained(WEIGHTS, **loading(dtype, quantization))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(WEIGHTS)
    return model, tokenizer


def identity() -> dict[str, str]:
    """Return the SHA-256 of the weights and of the tokenizer, without loading either."""
    return {
        "weights_sha256": _sha256("config.json", "model.safetensors"),
        "tokenizer_sha256": _sha256("tokenizer.json"),
    }


def _sha256(*names: str) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update((WEIGHTS / name).read_bytes())
    return digest.hexdigest()
