"""The settings of a trial: the fields there are, the defaults of each scale, and overrides.

A resolved configuration is the scale's defaults, changed by the study's defaults, then by
`--set`, then by the variant's declared changes, which win.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable, Mapping
from types import NoneType

from gatera.errors import InputError
from gatera.studies.sources import OWN_CLASSES, is_class_path
from gatera.trial import Json

_TEXT, _WHOLE, _REAL, _FLAG = (str,), (int,), (float, int), (bool,)
_NAMES = (list, str)

# Every field that --set and a variant may change, with the types that it takes.
FIELDS: Mapping[str, tuple[type, ...]] = {
    "backbone.name": _TEXT,
    "adapter.gate": _TEXT,
    "adapter.delta": _TEXT,
    "adapter.r": _WHOLE,
    "adapter.alpha": (*_REAL, NoneType),
    "adapter.use_rslora": _FLAG,
    "adapter.dropout": _REAL,
    "adapter.target_modules": _NAMES,
    "adapter.exclude_modules": (*_NAMES, NoneType),
    "adapter.rank_pattern": (dict,),
    "adapter.alpha_pattern": (dict,),
    "adapter.layers_to_transform": (list, int, NoneType),
    "adapter.layers_pattern": (*_NAMES, NoneType),
    "adapter.bias": _TEXT,
    "adapter.gate_bias": _REAL,
    "adapter.gate_init_std": _REAL,
    "adapter.gate_temperature": _REAL,
    "adapter.gate_sharing": _TEXT,
    "adapter.gate_hidden": _WHOLE,
    "adapter.gate_threshold": _REAL,
    "adapter.gate_threshold_in_training": _FLAG,
    "adapter.mora_type": _TEXT,
    "train.learning_rate": _REAL,
    "train.entropy_weight": _REAL,
    "train.batch_size": _WHOLE,
    "train.accumulation": _WHOLE,
    "train.max_steps": (*_WHOLE, NoneType),
    "train.epochs": (*_WHOLE, NoneType),
    "train.warmup_steps": (*_WHOLE, NoneType),
    "train.schedule": _TEXT,
    "train.weight_decay": _REAL,
    "train.gradient_clip": (*_REAL, NoneType),
    "train.loss_mask": _TEXT,
    "train.dtype": _TEXT,
    "train.max_tokens": _WHOLE,
    "train.val_every": _WHOLE,
    "train.checkpoint_every": _WHOLE,
    "train.gradient_checkpointing": _FLAG,
    "eval.limit": (*_WHOLE, NoneType),
    "eval.beams": _WHOLE,
    "eval.max_new_tokens": _WHOLE,
    "eval.method": _TEXT,
    "eval.batch_size": _WHOLE,
    "eval.knowledge": (*_TEXT, NoneType),
    "data.template": _TEXT,
    "data.train_tasks": _NAMES,
    "data.validation_items": _WHOLE,
}

# What --set may change of a study's tuning phase; a variant may not: all have the same budget.
TUNING_FIELDS: Mapping[str, tuple[type, ...]] = {
    "tuning.trials": _WHOLE,
    "tuning.steps": (*_WHOLE, NoneType),
    "tuning.validate_every": (*_WHOLE, NoneType),
    "tuning.round_size": _WHOLE,
    "tuning.pruner": (*_TEXT, NoneType),
    "tuning.seed": _WHOLE,
}

CHOICES: Mapping[str, tuple[str, ...]] = {
    "adapter.gate": ("token", "static", "none", "mlp", "attention", "channel"),
    "adapter.delta": ("hira", "lora", "dora", "mora", "hilora"),
    "adapter.gate_sharing": ("module", "block", "model"),
    "adapter.mora_type": ("rotate", "share"),
    "adapter.bias": ("none", "all", "gatera_only"),
    "train.schedule": ("linear", "cosine", "constant"),
    "train.loss_mask": ("answer", "all"),
    "train.dtype": ("float32", "bfloat16"),
    "eval.method": ("generate",),
}

# The smallest value that makes sense; fields that are not here take any number.
MINIMA: Mapping[str, float] = {
    "adapter.r": 1,
    "adapter.gate_hidden": 1,
    "adapter.gate_threshold": 0,
    "train.learning_rate": 0,
    "train.entropy_weight": 0,
    "train.batch_size": 1,
    "train.accumulation": 1,
    "train.max_steps": 1,
    "train.epochs": 1,
    "train.warmup_steps": 0,
    "train.weight_decay": 0,
    "train.max_tokens": 8,
    "train.val_every": 1,
    "train.checkpoint_every": 1,
    "eval.limit": 1,
    "eval.beams": 1,
    "eval.max_new_tokens": 1,
    "eval.batch_size": 1,
    "data.validation_items": 1,
}

_ADAPTER: Mapping[str, Json] = {
    "gate": "token",
    "delta": "hira",
    "r": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
}
_PROTOCOL: Mapping[str, Json] = {
    "learning_rate": 1e-3,
    "entropy_weight": 0.01,  # the paper states none
    "batch_size": 32,
    "accumulation": 1,
    "max_steps": None,
    "epochs": 3,
    "warmup_steps": None,  # min(100, 10 % of the steps)
    "schedule": "linear",
    "weight_decay": 0.0,
    "gradient_clip": 1.0,
    "loss_mask": "answer",
    "dtype": "bfloat16",
    "max_tokens": 512,
    "val_every": 80,
    "checkpoint_every": 80,
    "gradient_checkpointing": False,
}
_EVALUATION: Mapping[str, Json] = {
    "limit": None,
    "beams": 1,
    "max_new_tokens": 16,
    "method": "generate",
    "batch_size": 64,
    "knowledge": "auto",  # text for the loss on held-out pre-training text, where there is one
}
COMMONSENSE = (
    "boolq",
    "piqa",
    "siqa",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
)
_SMALL_TASKS = ("boolq", "arc_easy", "arc_challenge", "openbookqa")
WORLD = (
    "world_truth",
    "world_use",
    "world_kin",
    "world_ending",
    "world_blank",
    "world_easy",
    "world_hard",
    "world_place",
)

SCALES: Mapping[str, Mapping[str, Json]] = {
    "tiny": {
        "backbone": {"name": "tiny"},
        "adapter": _ADAPTER,
        "train": {
            **_PROTOCOL,
            "learning_rate": 2e-2,
            "epochs": None,
            "max_steps": 80,
            "dtype": "float32",
            "max_tokens": 128,
            "val_every": 40,
            "checkpoint_every": 20,
        },
        "eval": {**_EVALUATION, "max_new_tokens": 8, "batch_size": 128},
        "data": {
            "template": "alpaca",
            "tasks": list(WORLD),
            "train_tasks": list(WORLD),
            "validation_items": 120,
        },
    },
    "small": {
        "backbone": {"name": "smollm2"},
        "adapter": _ADAPTER,
        "train": {
            **_PROTOCOL,
            "learning_rate": 4e-3,
            "epochs": None,
            "max_steps": 400,
            "batch_size": 16,
            "accumulation": 4,  # a vocabulary of 49,152 words makes logits large
        },
        "eval": {**_EVALUATION, "batch_size": 16},
        "data": {
            "template": "alpaca",
            "tasks": list(_SMALL_TASKS),
            "train_tasks": list(_SMALL_TASKS),
            "validation_items": 120,
        },
    },
    "paper": {
        "backbone": {"name": "llama-3-8b"},
        "adapter": _ADAPTER,
        "train": {**_PROTOCOL, "gradient_checkpointing": True},
        "eval": {**_EVALUATION, "beams": 4, "max_new_tokens": 32, "batch_size": 16},
        "data": {
            "template": "alpaca",
            "tasks": list(COMMONSENSE),
            "train_tasks": ["commonsense_170k"],
            "validation_items": 120,
        },
    },
}


def scale_defaults(scale: str) -> dict[str, dict[str, Json]]:
    """Return the sections of `scale` as a fresh nested dict.

    Raises:
        InputError: there is no such scale.
    """
    if scale not in SCALES:
        raise InputError(f"no scale {scale!r}; there are {', '.join(SCALES)}.")
    return copy.deepcopy({section: dict(fields) for section, fields in SCALES[scale].items()})


def parse_overrides(settings: Iterable[str]) -> dict[str, Json]:
    """Read `--set section.field=value` options into a dict.

    A value is JSON where it parses as JSON, a list of words where it holds a comma, and a word
    otherwise: `adapter.gate=none`, `train.max_steps=40`, `eval.limit=null`.

    Raises:
        InputError: no "=", an unknown field, or a value of the wrong type.
    """
    overrides = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(
                f"--set {setting!r} has no '='; write --set section.field=value, "
                "for example --set train.max_steps=40."
            )
        value = _parse(name.strip(), text.strip())
        overrides[name.strip()] = _checked(name.strip(), value, {**FIELDS, **TUNING_FIELDS})
    return overrides


def _parse(name: str, text: str) -> Json:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError:
        value = [word.strip() for word in text.split(",")] if "," in text else text
    # A name that happens to be a JSON word or number stays a name where only names fit.
    if FIELDS.get(name) == _TEXT and not isinstance(value, str):
        return text
    return value


def _no_constant(constant: str) -> Json:
    raise ValueError(constant)


def _checked(name: str, value: Json, known: Mapping[str, tuple[type, ...]] = FIELDS) -> Json:
    _check_known(name, known)
    types = known[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join(_TYPE_NAMES[kind] for kind in types)
        raise InputError(f"{name}={json.dumps(value)}: expected {expected}.")
    if name in CHOICES and value not in CHOICES[name] and not _names_own_class(name, value):
        own = ", or path/to/file.py:ClassName" if name in OWN_CLASSES else ""
        raise InputError(f"{name}={value}: expected one of {', '.join(CHOICES[name])}{own}.")
    if name in MINIMA and isinstance(value, int | float) and value < MINIMA[name]:
        raise InputError(f"{name}={value}: expected at least {MINIMA[name]}.")
    if types == _NAMES and isinstance(value, str) and name == "data.train_tasks":
        return [value]
    return value


def _names_own_class(name: str, value: Json) -> bool:
    return name in OWN_CLASSES and is_class_path(value)


_TYPE_NAMES = {
    str: "a word",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of names",
    dict: "a JSON object",
    NoneType: "null",
}


def _check_known(name: str, known: Mapping[str, tuple[type, ...]]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    section = name.partition(".")[0]
    same = [field for field in known if field.startswith(f"{section}.")]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(same or known)}."
    raise InputError(f"no setting {name!r}; {hint}")


def is_number(name: str) -> bool:
    """Return whether a setting takes any real number."""
    return float in FIELDS.get(name, ())


def apply_changes(
    config: Mapping[str, Mapping[str, Json]], changes: Mapping[str, Json]
) -> dict[str, dict[str, Json]]:
    """Return `config` with each "section.field" of `changes` set.

    Raises:
        InputError: an unknown field, or a value of the wrong type.
    """
    changed = {section: dict(fields) for section, fields in config.items()}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        changed.setdefault(section, {})[key] = _checked(name, value)
    return changed
