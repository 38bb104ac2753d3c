"""What a GateRA adapter consists of, as PEFT stores it beside the weights."""

from __future__ import annotations

import enum
import inspect
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from peft import PeftConfig

from gatera.adapter.gates import GATES
from gatera.adapter.gates.base import Gate
from gatera.adapter.own import look_up, sources_of
from gatera.adapter.saved import check_weights_file, complete_model_card
from gatera.adapter.updates import DELTAS
from gatera.adapter.updates.base import Delta
from gatera.declaring import fields_of
from gatera.errors import InputError
from gatera.settings import GateraFields


class GateraPeftType(str, enum.Enum):  # noqa: UP042 (PEFT's status reads str(): "Class.NAME")
    """The key of this method in PEFT's tables.

    Name and value agree: PEFT finds members and strings from saved files in the same dictionary.
    """

    GATERA = "GATERA"


@dataclass
class GateraConfig(GateraFields, PeftConfig):  # type: ignore[misc]
    """Configuration of a GateRA adapter: which update, behind which gate, on which layers.

    The adapted layer computes y = W0 x + g(x) · Δ(x), with Δ chosen by `delta` and g by `gate`.

    Args:
        {arguments}
        sources (a mapping): The sha256 of the source of each gate or update of one's own, by its
            name; written when an adapter is saved, compared when it is loaded.

    Raises:
        InputError: an unknown value, values that contradict each other, or code of one's own that
            was changed since the adapter was saved.

    Source: GateRA, arXiv:2511.17582; HiRA (ICLR 2025); LoRA, arXiv:2106.09685.
    """

    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = GateraPeftType.GATERA
        self.rank_pattern = self.rank_pattern or {}
        self.alpha_pattern = self.alpha_pattern or {}
        gate, delta = self.gate_class(), self.delta_class()  # refuse what their tables do not name
        for each in fields_of(GateraFields):
            if each.name not in ("gate", "delta"):
                setattr(self, each.name, each.typed(_plain(getattr(self, each.name))))
        self.sources = sources_of((self.gate, self.delta), self.sources or {})
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        if gate is not None and gate.per_channel and self.gate_sharing != "module":
            raise InputError(
                f"gate={self.gate!r} has a value for each output channel of its layer, so layers "
                f"cannot share it; gate_sharing={self.gate_sharing!r} needs another gate, or use "
                "gate_sharing='module'."
            )
        self._check_layer_selection()
        if not delta.scaled and (self.alpha is not None or self.use_rslora):
            warnings.warn(
                f"alpha and use_rslora scale additive updates only; delta={self.delta!r} is "
                "multiplicative and ignores them.",
                stacklevel=3,
            )

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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, sets as sorted lists: what is saved is the same in every process."""
        fields = super().to_dict()
        return {n: sorted(v) if isinstance(v, set) else v for n, v in fields.items()}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the configuration, and name the import that loading needs in the card beside it."""
        super().save_pretrained(save_directory, **kwargs)
        complete_model_card(Path(save_directory))


def _plain(value: Any) -> Any:
    """Return a value as JSON would have it: numbers of numpy, sets and tuples as Python's own."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple | range) else value


def _as_set(names: Any) -> Any:
    return set(names) if isinstance(names, list) else names


def _arguments() -> str:
    """Return the fields as the section "Args" of a docstring."""
    described = (
        f"{each.name} ({each.shape.expected}): {each.meaning}" for each in fields_of(GateraFields)
    )
    return "\n".join(
        textwrap.fill(text, 96, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for text in described
    )


if GateraConfig.__doc__:  # none under python -OO
    GateraConfig.__doc__ = inspect.cleandoc(GateraConfig.__doc__).replace(
        "    {arguments}", _arguments()
    )
