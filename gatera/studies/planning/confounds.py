"""What rows differ in: each row beside the reference, and what it may differ in.

A row's difference can be read as the effect of its change only where nothing else changes. So each
resolved configuration is compared with the reference's, and a setting of the protocol (data, loss
mask, learning rate, steps, decoding, backbone) that rides along with another change is a confound,
unless the study says that it knows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from gatera.errors import InputError
from gatera.studies.study import Variant
from gatera.trial import Json

_METHOD_SECTION = "adapter."
_METHOD_FIELDS = ("train.entropy_weight",)  # the term belongs to the gate

_Config = Mapping[str, Json]


def differing_fields(config: _Config, reference: _Config) -> dict[str, tuple[Json, Json]]:
    """Return "section.field" -> (value of the reference, value here) where the two differ."""
    found = {}
    for section in sorted(config.keys() | reference.keys()):
        ours, theirs = config.get(section) or {}, reference.get(section) or {}
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                found[f"{section}.{name}"] = (theirs.get(name), ours.get(name))
    return found


def flat_fields(config: _Config) -> dict[str, Json]:
    """Return "section.field" -> value of a resolved configuration."""
    return {
        f"{section}.{name}": value
        for section, fields in config.items()
        for name, value in (fields or {}).items()
    }


def varied_fields(configs: Iterable[_Config]) -> list[str]:
    """Return the fields, "section.field", that have not one value in all of `configs`.

    One that some of them lack is among these only where the others differ in it.
    """
    values: dict[str, set[str]] = {}
    for config in configs:
        for name, value in flat_fields(config).items():
            values.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    return sorted(name for name, found in values.items() if len(found) > 1)


def undeclared_differences(
    changes: Collection[str], confounds: Collection[str], config: _Config, reference: _Config
) -> dict[str, tuple[Json, Json]]:
    """Return what differs from the reference without the variant saying so.

    That is every differing field that is not among its changes, and every changed setting of the
    protocol that stands beside another change and is not among its confounds.

    Args:
        changes: Fields that the variant declares to change.
        confounds: Those of them that it declares not to be its question.
        config: The variant's resolved configuration.
        reference: The reference's.
    """
    differing = differing_fields(config, reference)
    return {
        name: values
        for name, values in differing.items()
        if name not in changes or _rides_along(name, differing, confounds)
    }


def _rides_along(name: str, differing: Collection[str], confounds: Collection[str]) -> bool:
    return len(differing) > 1 and not _is_method(name) and name not in confounds


def _is_method(name: str) -> bool:
    return name.startswith(_METHOD_SECTION) or name in _METHOD_FIELDS


def refuse_undeclared(
    study: str,
    reference: str,
    variants: Sequence[Variant],
    configs: Mapping[str, _Config],
) -> None:
    """Refuse rows that differ from the reference in more than their declared change.

    Raises:
        InputError: one does; the message names row, field and both values.
    """
    for variant in variants:
        config, base = configs[variant.name], configs[reference]
        found = undeclared_differences(variant.changes, variant.confounds, config, base)
        if found:
            details = ", ".join(f"{name} ({_arrow(*values)})" for name, values in found.items())
            raise InputError(
                f"study {study}: variant {variant.name} differs from the reference {reference} in "
                f"{details}, beside its change: its row would measure both. Set it alike for all "
                "rows (defaults of the study, or --set), make it the row's one change, or declare "
                "it where it must differ: Variant(..., changes={...}, confounds=(...,))."
            )


def _arrow(before: Json, after: Json) -> str:
    return f"{json.dumps(before)} -> {json.dumps(after)}"
