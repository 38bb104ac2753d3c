"""How a setting is declared: a dataclass field with its type, bounds and meaning, and its check.

What settings there are stands in `gatera.settings`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan, StringConstraints, TypeAdapter, ValidationError

from gatera.errors import InputError

CLASS_PATH = r".+\.py:[A-Za-z_]\w*"  # a class of the user's own: path/to/file.py:ClassName

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Real = Annotated[float, AllowInfNan(False)]
NonNegative = Annotated[float, Ge(0), AllowInfNan(False)]
Positive = Annotated[float, Gt(0), AllowInfNan(False)]
Share = Annotated[float, Ge(0), Lt(1)]
OwnClass = Annotated[str, StringConstraints(pattern=rf"^{CLASS_PATH}$")]
Names = list[str]


def setting(default: Any, meaning: str, *, in_key: bool = True, **by_scale: Any) -> Any:
    """Return a dataclass field.

    Args:
        default: Its value where nothing else is said, and the one that keys leave out.
        meaning: One or two sentences, with units and the meaning of None.
        in_key: Whether the value is part of a trial's key: not where it changes the last bits of a
            result, but not the experiment. It then stands in the provenance.
        by_scale: Defaults of scales that differ, by the scale's name.
    """
    metadata = {"help": meaning, "in_key": in_key, "by_scale": by_scale}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Range:
    """A setting that tuning chooses: where it is looked for, in place of its value."""

    low: float
    high: float
    log: bool = False  # whether it is even in the number's logarithm


@dataclass(frozen=True)
class Setting:
    """One setting, as it is declared."""

    name: str  # "section.field"
    annotation: Any
    meaning: str
    neutral: Any  # what keys leave out
    by_scale: Mapping[str, Any]
    in_key: bool

    def default(self, scale: str) -> Any:
        """Return the default at a scale, a fresh value."""
        found = self.by_scale.get(scale, self.neutral)
        return list(found) if isinstance(found, list | tuple) else found

    @functools.cached_property
    def shape(self) -> Shape:
        """What its type says for people and for JSON."""
        return _shape_of(self.annotation)

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.annotation)

    @property
    def takes_text(self) -> bool:
        """Whether a word of any kind is a value."""
        return "text" in self.shape.kinds

    def typed(self, value: Any) -> Any:
        """Return `value` as the field's type has it: 0 of a real number becomes 0.0.

        Raises:
            InputError: it is of another type, or out of bounds.
        """
        if value == "" and "" not in self.shape.choices:
            raise InputError(f"{self.name} is empty; expected {self.shape.expected}.")
        if isinstance(value, tuple):
            value = list(value)
        try:
            checked = self._adapter.validate_python(value, strict=True)
        except ValidationError:
            shown = value if isinstance(value, str) and self.shape.choices else _as_json(value)
            raise InputError(f"{self.name}={shown}: expected {self.shape.expected}.") from None
        return checked + 0.0 if isinstance(checked, float) else checked  # -0.0 is 0.0


def _as_json(value: Any) -> str:
    return json.dumps(value, default=repr)


@functools.cache
def fields_of(cls: type[Any]) -> tuple[Setting, ...]:
    """Return the settings that a section's dataclass declares, in order, `method` first."""
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        if "by_scale" not in field.metadata:  # a field of a subclass, such as a search space
            continue
        neutral = field.default
        if field.default_factory is not dataclasses.MISSING:
            neutral = field.default_factory()
        meta = field.metadata
        found.append(
            Setting(
                field.name,
                hints[field.name],
                meta["help"],
                neutral,
                meta["by_scale"],
                meta["in_key"],
            )
        )
    return tuple(sorted(found, key=lambda each: each.name != "method"))


@dataclass(frozen=True)
class Shape:
    """What a type says for people and for JSON."""

    kinds: tuple[str, ...]
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    excludes: tuple[float, ...] = ()  # bounds that are themselves out
    own_class: bool = False

    @property
    def expected(self) -> str:
        """Return what a message says was expected."""
        kinds = [kind for kind in self.kinds if kind != "null"]
        parts = [f"one of {', '.join(self.choices)}"] if self.choices else []
        parts += [_KINDS[kind] for kind in kinds]
        if self.own_class:
            parts.append("path/to/file.py:ClassName")
        text = " or ".join(parts) + self._bounds
        return f"{text} or null" if "null" in self.kinds else text

    @property
    def _bounds(self) -> str:
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f" from {low:g} up to, but not including, {high:g}"
        if low is not None:
            return f" above {low:g}" if low in self.excludes else f" of at least {low:g}"
        return ""


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "text": "a word",
    "list": "a list",
    "object": "a JSON object of names and numbers",
}
_PLAIN = {int: "integer", float: "number", bool: "flag", str: "text"}


def _shape_of(annotation: Any) -> Shape:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is types.NoneType:
        return Shape(("null",))
    if origin is Literal:
        return Shape((), choices=arguments)
    if origin is Annotated:
        return _bounded(_shape_of(arguments[0]), arguments[1:])
    if origin in (Union, types.UnionType):
        return functools.reduce(_either, map(_shape_of, arguments))
    if origin is dict:
        return Shape(("object",))
    if origin is list:
        return Shape(("list",))
    return Shape((_PLAIN[annotation],))


def _bounded(shape: Shape, constraints: tuple[Any, ...]) -> Shape:
    for each in constraints:
        if isinstance(each, StringConstraints):
            shape = dataclasses.replace(shape, kinds=(), own_class=True)
        elif isinstance(each, Ge | Gt | Lt):
            shape = _within(shape, each)
    return shape


def _within(shape: Shape, bound: Ge | Gt | Lt) -> Shape:
    value: Any  # the types of bounds are abstract: here they are numbers
    if isinstance(bound, Ge):
        value = bound.ge
        return dataclasses.replace(shape, minimum=value)
    if isinstance(bound, Gt):
        value = bound.gt
        return dataclasses.replace(shape, minimum=value, excludes=(*shape.excludes, value))
    value = bound.lt
    return dataclasses.replace(shape, maximum=value, excludes=(*shape.excludes, value))


def _either(one: Shape, other: Shape) -> Shape:
    return Shape(
        kinds=tuple(dict.fromkeys((*one.kinds, *other.kinds))),
        choices=(*one.choices, *other.choices),
        minimum=one.minimum if one.minimum is not None else other.minimum,
        maximum=one.maximum if one.maximum is not None else other.maximum,
        excludes=(*one.excludes, *other.excludes),
        own_class=one.own_class or other.own_class,
    )
