"""Resolved configurations: a scale's defaults, changed by the study, by `--set`, by a variant.

A configuration is the scale's defaults, changed by the study's defaults, then by `--set`, then by
the variant's declared changes, which win. What the settings are stands in `gatera.settings`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping

from gatera.declaring import Range as Range
from gatera.declaring import Setting
from gatera.errors import InputError
from gatera.settings import SCALES, SECTIONS, TUNING, declared
from gatera.trial import FROZEN, Json

Config = Mapping[str, Mapping[str, Json]]

# Given by an option of its own, so that a report's name says it.
_BY_OPTION = {"data.tasks": "--tasks A,B"}


def scale_defaults(scale: str) -> dict[str, dict[str, Json]]:
    """Return every section of `scale` with every field, as a fresh nested dict.

    Raises:
        InputError: there is no such scale.
    """
    if scale not in SCALES:
        raise InputError(f"no scale {scale!r}; there are {', '.join(SCALES)}.")
    config: dict[str, dict[str, Json]] = {section: {} for section in SECTIONS}
    for setting in declared().values():
        section, _, name = setting.name.partition(".")
        if section in config:
            config[section][name] = setting.default(scale)
    return config


def parse_overrides(settings: Iterable[str]) -> dict[str, Json]:
    """Read `--set section.field=value` options into a dict.

    A value is JSON where it parses as JSON, a list of words where it holds a comma, and a word
    otherwise: `adapter.gate=none`, `train.max_steps=40`, `eval.limit=null`.

    Raises:
        InputError: no "=", an unknown field, or a value of the wrong type.
    """
    overrides = {}
    for text in settings:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(
                f"--set {text!r} has no '='; write --set section.field=value, "
                "for example --set train.max_steps=40."
            )
        setting = _known(name)
        overrides[name] = _typed(setting, _parse(setting, value))
    return overrides


def typed_overrides(changes: Mapping[str, Json]) -> dict[str, Json]:
    """Return settings that are changed for all rows, each as its field has it.

    Raises:
        InputError: an unknown field, or a value of the wrong type.
    """
    return {name: _typed(_known(name), value) for name, value in changes.items()}


def _parse(setting: Setting, text: str) -> Json:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError:
        value = [word.strip() for word in text.split(",")] if "," in text else text
    # A name that happens to be a JSON word or number stays a name where only names fit.
    names = setting.shape.kinds in ((), ("text",)) and not isinstance(value, str)
    return text if names else value


def _no_constant(constant: str) -> Json:
    raise ValueError(constant)


def _known(name: str, *, tuning: bool = True) -> Setting:
    """Return the setting called `name`.

    Raises:
        InputError: there is none; the message has the nearest names.
    """
    if name in _BY_OPTION:
        raise InputError(f"{name} is not set by --set; use {_BY_OPTION[name]}.")
    known = {
        n: setting
        for n, setting in declared().items()
        if (tuning or not n.startswith(f"{TUNING}.")) and n not in _BY_OPTION
    }
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    section = name.partition(".")[0]
    same = [field for field in known if field.startswith(f"{section}.")]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(same or known)}."
    raise InputError(f"no setting {name!r}; {hint}")


def _typed(setting: Setting, value: Json) -> Json:
    """Return a value in its field's type; the name of one task stands for a list of it."""
    if isinstance(value, str) and "list" in setting.shape.kinds and not setting.takes_text:
        value = [value]
    return setting.typed(value)


def is_number(name: str) -> bool:
    """Return whether a setting takes any real number."""
    return name in declared() and "number" in declared()[name].shape.kinds


def apply_changes(config: Config, changes: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return `config` with each "section.field" of `changes` set.

    Raises:
        InputError: an unknown field, or a value of the wrong type.
    """
    return with_values(
        config,
        {name: _typed(_known(name, tuning=False), value) for name, value in changes.items()},
    )


def with_values(config: Config, values: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return a resolved configuration with some of its fields set, unchecked."""
    changed = {section: dict(fields) for section, fields in config.items()}
    for name, value in values.items():
        section, _, key = name.partition(".")
        changed[section][key] = value
    return changed


def as_run(config: Config) -> dict[str, dict[str, Json]]:
    """Return what a trial keeps of a configuration: of the frozen backbone, nothing that trains."""
    if config["adapter"]["method"] != FROZEN:
        return {section: dict(fields) for section, fields in config.items()}
    data = config["data"]
    return {
        "backbone": dict(config["backbone"]),
        "adapter": {"method": FROZEN},
        "train": {"dtype": config["train"]["dtype"]},
        "eval": dict(config["eval"]),
        "data": {"template": data["template"], "tasks": data["tasks"]},
    }


def described() -> list[dict[str, Json]]:
    """Return what `settings --json` says: each setting with its type, bounds and defaults."""
    return [
        {
            "name": setting.name,
            "type": " or ".join(
                (*(["choice"] if setting.shape.choices else []), *setting.shape.kinds)
            ),
            "choices": list(setting.shape.choices) or None,
            "minimum": setting.shape.minimum,
            "maximum": setting.shape.maximum,
            "default": {scale: setting.default(scale) for scale in SCALES},
            "meaning": setting.meaning,
        }
        for setting in declared().values()
    ]


def settings_text() -> str:
    """Return what `settings` prints for people."""
    lines = []
    for setting in declared().values():
        defaults = {scale: json.dumps(setting.default(scale)) for scale in SCALES}
        alike = len(set(defaults.values())) == 1
        shown = defaults["tiny"] if alike else ", ".join(f"{s} {v}" for s, v in defaults.items())
        lines += [
            f"{setting.name}: {setting.shape.expected}",
            f"    default: {shown}",
            f"    {setting.meaning}",
        ]
    return "\n".join(lines)
