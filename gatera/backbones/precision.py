"""In which type a backbone's weights are held: floating-point, or packed by bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import Any

from gatera.errors import InputError


def loading(dtype: str, quantization: str) -> dict[str, Any]:
    """Return what transformers' `from_pretrained` is told.

    Args:
        dtype: The type of the weights; of packed ones, the type that products are computed in.
        quantization: "none", "8bit" (LLM.int8, arXiv:2208.07339) or "4bit" (NF4 with its scales
            quantized too, as QLoRA has it, arXiv:2305.14314). The output layer stays as it is.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    import torch

    weights = {"dtype": getattr(torch, dtype)}
    if quantization == "none":
        return weights
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"backbone.quantization={quantization} needs bitsandbytes: "
            "pip install 'gatera[quantization]'."
        )
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        packed = BitsAndBytesConfig(load_in_8bit=True)
    else:
        packed = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=weights["dtype"],
        )
    # A packed model may not be moved: it is loaded to where it is used.
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return {**weights, "quantization_config": packed, "device_map": {"": device}}
