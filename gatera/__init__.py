"""Gates on parameter-efficient fine-tuning, and the studies that measure them.

`import gatera` is light: the names below are looked up when they are touched, and only then are
torch and PEFT imported and the method registered with PEFT. Where peft is imported already, the
method is registered at once, so that `import peft, gatera` is enough to load a saved adapter.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatera.adapter import (
        GateraConfig,
        GateraModel,
        GateRecorder,
        GateStatistics,
        record_gates,
        seed_adapter,
    )

__all__ = [
    "GateRecorder",
    "GateStatistics",
    "GateraConfig",
    "GateraModel",
    "record_gates",
    "seed_adapter",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gatera' has no attribute {name!r}")
    return getattr(importlib.import_module("gatera.adapter"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "peft" in sys.modules:
    importlib.import_module("gatera.adapter")
