"""The files that lie beside a saved configuration: the weights, and the model card."""

from __future__ import annotations

from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from gatera.errors import InputError

_CARD_SECTION = """
## How to load

This adapter uses the PEFT method GATERA, which the package `gatera` adds to PEFT. Import it first:

```python
import gatera
from gatera import GateraConfig  # touching any name registers the method
from peft import PeftModel
```
"""


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


def complete_model_card(folder: Path) -> None:
    """Name the import that loading needs in the model card that PEFT wrote into a folder, if any.

    PEFT writes one for all adapters that it saves together; an adapter with a name of its own lies
    in a folder below it. What is in other folders than the adapter's own is not ours to edit.
    """
    card = folder / "README.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    if "library_name: peft" in text and "import gatera" not in text:
        card.write_text(text.rstrip("\n") + "\n" + _CARD_SECTION, encoding="utf-8")
