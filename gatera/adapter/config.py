"""What a GateRA adapter consists of, as PEFT stores it beside the weights."""

from __future__ import annotations

import enum
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from peft import PeftConfig

from gatera.adapter.gates import GATES
from gatera.adapter.gates.base import Gate
from gatera.adapter.loading import check_weights_file
from gatera.adapter.own import look_up
from gatera.adapter.sharing import SHARINGS
from gatera.adapter.updates import DELTAS
from gatera.adapter.updates.base import MORA_TYPES, Delta
from gatera.errors import InputError

BIASES = ("none", "all", "gatera_only")

MODEL_CARD_SECTION = """
## How to load

This adapter uses the PEFT method GATERA, which the package `gatera` adds to PEFT. Import it first:

```python
import gatera
from gatera import GateraConfig  # touching any name registers the method
from peft import PeftModel
```
"""


def _listed(classes: Mapping[str, type | None]) -> str:
    """Name each class with the first line of its docstring."""
    lines = {name: (known.__doc__ or "").splitlines() for name, known in classes.items() if known}
    return " ".join(f"{name!r}: {text[0]}" for name, text in lines.items() if text)


class GateraPeftType(str, enum.Enum):  # noqa: UP042 (PEFT's status reads str(): "Class.NAME")
    """The key of this method in PEFT's tables.

    Name and value agree: PEFT finds members and strings from saved files in the same dictionary.
    """

    GATERA = "GATERA"


@dataclass
class GateraConfig(PeftConfig):  # type: ignore[misc]
    """Configuration of a GateRA adapter: which update, behind which gate, on which layers.

    The adapted layer computes y = W0 x + g(x) · Δ(x), with Δ chosen by `delta` and g by `gate`.

    Raises:
        InputError: an unknown value, or values that contradict each other.

    Source: GateRA, arXiv:2511.17582; HiRA (ICLR 2025); LoRA, arXiv:2106.09685.
    """

    r: int = field(default=32, metadata={"help": "Rank of the factors A and B."})
    gate: str = field(
        default="token",
        metadata={
            "help": f"The gate g, 'none' being always 1. {_listed(GATES)} Or a class of one's "
            "own, 'path/to/file.py:ClassName'."
        },
    )
    delta: str = field(
        default="hira",
        metadata={
            "help": f"The update Δ. {_listed(DELTAS)} Or a class of one's own, "
            "'path/to/file.py:ClassName'."
        },
    )
    gate_sharing: str = field(
        default="module",
        metadata={
            "help": "Who has a gate of its own: each 'module', each transformer 'block' (the gate "
            "reads the block's input, and acts on all adapted layers in it), or the 'model' (as "
            "'block', with one set of gate weights for all blocks)."
        },
    )
    alpha: float | None = field(
        default=None,
        metadata={
            "help": "Scale of an additive update, which is multiplied by alpha/r; None means r, "
            "a factor of 1 (of sqrt(r) with use_rslora). Multiplicative updates have no scale and "
            "ignore it."
        },
    )
    use_rslora: bool = field(
        default=False,
        metadata={"help": "Scale an additive update by alpha/sqrt(r) in place of alpha/r."},
    )
    dropout: float = field(
        default=0.0, metadata={"help": "Dropout on the input of the update, never of the gate."}
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names of the modules to adapt, a regular expression, or 'all-linear'; None "
            "means PEFT's choice for the architecture."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names, or a regular expression, of modules to leave out."}
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict,
        metadata={"help": "Ranks that differ from r, by module name or regular expression."},
    )
    alpha_pattern: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "Values that differ from alpha, by module name or regular expression."},
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt; None means all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None,
        metadata={"help": "Name of the list of layers that layers_to_transform indexes."},
    )
    fan_in_fan_out: bool = field(
        default=False,
        metadata={
            "help": "Whether layers of an unknown type store their weight as (in, out). The types "
            "nn.Linear and transformers' Conv1D are told apart without it."
        },
    )
    bias: str = field(
        default="none",
        metadata={
            "help": "Biases of the base model to train: 'none', 'all' or 'gatera_only' (those of "
            "the adapted layers)."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Other modules to train and save in full, such as a new head."},
    )
    init_weights: bool = field(
        default=True,
        metadata={
            "help": "True: B starts at zero, so that a fresh adapter changes nothing. False: B is "
            "random, for tests."
        },
    )
    gate_bias: float = field(
        default=0.0, metadata={"help": "Initial bias b of the gate; 0 opens it half."}
    )
    gate_init_std: float = field(
        default=0.02, metadata={"help": "Standard deviation of the initial gate weights w."}
    )
    gate_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Divisor of the gate's logit: below 1 sharpens the gate, above 1 softens."
        },
    )
    gate_hidden: int = field(
        default=16,
        metadata={"help": "Width of the hidden layer, or the head, of the gates that have one."},
    )
    gate_threshold: float = field(
        default=0.0,
        metadata={
            "help": "In evaluation a gate below this value is closed, and its update is skipped; "
            "0 closes none. From 0 up to, but not including, 1."
        },
    )
    gate_threshold_in_training: bool = field(
        default=False,
        metadata={
            "help": "Whether gates below gate_threshold are closed in training too. The loss of "
            "the task then gives a closed token's update and gate no gradient; the entropy still "
            "moves the gate."
        },
    )
    mora_type: str = field(
        default="rotate",
        metadata={"help": "How delta='mora' folds the input into its groups: 'rotate' or 'share'."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = GateraPeftType.GATERA
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        self.rank_pattern = self.rank_pattern or {}
        self.alpha_pattern = self.alpha_pattern or {}
        gate = self.gate_class()
        self.delta_class()
        _check_choice("bias", self.bias, BIASES)
        _check_choice("gate_sharing", self.gate_sharing, SHARINGS)
        _check_choice("mora_type", self.mora_type, MORA_TYPES)
        if gate is not None and gate.per_channel and self.gate_sharing != "module":
            raise InputError(
                f"gate={self.gate!r} has a value for each output channel of its layer, so layers "
                f"cannot share it; gate_sharing={self.gate_sharing!r} needs another gate, or use "
                "gate_sharing='module'."
            )
        self._check_numbers()
        self._check_layer_selection()
        if not self.delta_class().scaled and (self.alpha is not None or self.use_rslora):
            warnings.warn(
                f"alpha and use_rslora scale additive updates only; delta={self.delta!r} is "
                "multiplicative and ignores them.",
                stacklevel=3,
            )

    def _check_numbers(self) -> None:
        for name, value in self._real_numbers().items():
            if not (isinstance(value, Real) and math.isfinite(value)):
                raise InputError(f"{name}={value!r} is not a finite number; give one.")
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            if not _is_positive_integer(rank):
                raise InputError(f"{name}={rank!r} is not a rank; give a positive integer.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(
                f"dropout={self.dropout!r} is not a share of the input; give a value from 0 up to, "
                "but not including, 1."
            )
        if self.gate_init_std < 0.0:
            raise InputError(
                f"gate_init_std={self.gate_init_std!r} is not a standard deviation; give 0 or more."
            )
        if not self.gate_temperature > 0.0:
            raise InputError(
                f"gate_temperature={self.gate_temperature!r} cannot divide a logit; give a value "
                "above 0."
            )
        if not _is_positive_integer(self.gate_hidden):
            raise InputError(
                f"gate_hidden={self.gate_hidden!r} is not a width; give a positive integer."
            )
        if not 0.0 <= self.gate_threshold < 1.0:
            raise InputError(
                f"gate_threshold={self.gate_threshold!r} is not a value of a gate; give one from 0 "
                "(no token is skipped) up to, but not including, 1."
            )

    def _real_numbers(self) -> dict[str, Any]:
        names = ("dropout", "gate_bias", "gate_init_std", "gate_temperature", "gate_threshold")
        alpha = {} if self.alpha is None else {"alpha": self.alpha}
        return {name: getattr(self, name) for name in names} | alpha | self.alpha_pattern

    def _check_layer_selection(self) -> None:
        if not isinstance(self.target_modules, str):
            return
        for name in ("layers_to_transform", "layers_pattern"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"`{name}` cannot be used when `target_modules` is a str: "
                    f"target_modules={self.target_modules!r} selects the layers already. Give a "
                    f"list of module names, or leave {name} out."
                )

    def gate_class(self) -> type[Gate] | None:
        """Return the gate's class; None for 'none'."""
        return look_up("gate", self.gate, GATES)

    def delta_class(self) -> type[Delta]:
        """Return the update's class."""
        return look_up("delta", self.delta, DELTAS)

    def scaling(self, r: int, alpha: float | None) -> float:
        """Return the factor of the update at rank `r`; `alpha` None means `r`."""
        if not self.delta_class().scaled:
            return 1.0
        alpha = r if alpha is None else alpha
        return float(alpha / r**0.5 if self.use_rslora else alpha / r)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> GateraConfig:
        """Read a saved configuration.

        Raises:
            InputError: the weights beside it are damaged.
        """
        config: GateraConfig = super().from_pretrained(
            pretrained_model_name_or_path, subfolder=subfolder, **kwargs
        )
        check_weights_file(Path(pretrained_model_name_or_path, subfolder or ""))
        return config

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the configuration, and name the import that loading needs in the model card."""
        super().save_pretrained(save_directory, **kwargs)
        for card in _model_cards(save_directory):
            text = card.read_text(encoding="utf-8")
            if "import gatera" not in text:
                card.write_text(text.rstrip("\n") + "\n" + MODEL_CARD_SECTION, encoding="utf-8")


def _is_positive_integer(value: Any) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _as_set(names: Any) -> Any:
    return set(names) if isinstance(names, (list, tuple)) else names


def _check_choice(field_name: str, value: object, known: Any) -> None:
    if value not in known:
        raise InputError(
            f"{field_name}={value!r} is not known; choose one of: {', '.join(sorted(known))}."
        )


def _model_cards(save_directory: str) -> list[Path]:
    """The model card that PEFT wrote for this adapter, if any.

    The default adapter lies beside its card; any other lies in a folder of its own, one below.
    """
    folder = Path(os.path.abspath(save_directory))
    cards = [card for card in (folder / "README.md", folder.parent / "README.md") if card.is_file()]
    return [card for card in cards[:1] if "library_name: peft" in card.read_text("utf-8")]
