"""The files of a saved adapter."""

from __future__ import annotations

from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from gatera.errors import InputError


def check_weights_file(folder: Path) -> None:
    """Refuse an adapter whose weights are damaged, before anything is made for it.

    PEFT reads the file only when a fresh adapter is in the model, and leaves it there.

    Args:
        folder: Where the adapter lies; without a safetensors file there is nothing to check.

    Raises:
        InputError: the file is no whole safetensors file.
    """
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise InputError(
            f"{path} is no whole safetensors file ({error}), so it was damaged, or written or "
            "copied in part only; copy the adapter again, or save it again."
        ) from error
