"""A trial, its trained weights and its result: plain frozen values, without torch.

A trial is one training run (variant × seed at a scale) with its scoring, the unit that is
scheduled, retried and stored. Two keys say what it is: the training key is a hash of what
determines the weights, the trial's key of these and of what is scored and how. So equal work is
done once, across studies too, and trained weights are scored again without training.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gatera.declaring import Range
from gatera.settings import declared

Json = Any  # what json.loads may return

FROZEN = "frozen"  # the `adapter.method` of the untrained backbone, which is scored alone

_KEY_DIGITS = 16
_SEEDS = ("order_seed", "init_seed", "dropout_seed")
_THRESHOLD = "gate_threshold"


def canonical_json(value: Json) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: `value` holds a NaN or an infinity.
        TypeError: `value` holds something that JSON cannot say.
    """
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=False,
        default=_plain,
    )


def _plain(value: Any) -> Json:
    """Return a dataclass, such as a range that tuning searches, as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON can say")


def plain(config: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the sections of a configuration with ranges that tuning searches as JSON."""
    return {
        section: {
            name: _plain(value) if dataclasses.is_dataclass(value) else value
            for name, value in fields.items()
        }
        for section, fields in config.items()
    }


def sha256_of(value: Json) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class Trial:
    """One training run and its scoring, fully resolved.

    `config` has the sections backbone, adapter, train, eval and data, each with every field. The
    frozen backbone (`adapter.method`) has of `train` the dtype alone; a tuning trial scores no task
    and has no `eval`.

    `identities` has hashes of what lies outside the configuration: `backbone` (weights and
    tokenizer), `template`, `items` (what trains and validates, where something does), `data` (each
    task's files: task -> split -> hash) and `sources` (files that settings name).
    """

    variant: str  # the row of the table; not part of the key
    seed: int  # of data order, initial values and dropout, where these have none of their own
    config: Mapping[str, Json]  # resolved configuration, plain JSON values
    identities: Mapping[str, Json]
    # "section.field" -> where the file lies that this field names; not part of the key
    sources: Mapping[str, str] = field(default_factory=dict)
    # Content hashes of training items that a test set asks too: they are left out. Not part of the
    # key, which has the hash of the items that are left.
    left_out: tuple[str, ...] = ()

    @functools.cached_property
    def key(self) -> str:
        """The first 16 hex digits of the hash of all that determines the result."""
        scoring = self._without_seed["scoring"]
        return sha256_of({"training": self.training_key, "scoring": scoring})[:_KEY_DIGITS]

    @functools.cached_property
    def training_key(self) -> str:
        """The first 16 hex digits of the hash of all that determines the weights."""
        parts: dict[str, Json] = {"weights": self._without_seed["weights"]}
        if not self.is_frozen:
            parts["seeds"] = self.seeds
        return sha256_of(parts)[:_KEY_DIGITS]

    def with_seed(self, seed: int) -> Trial:
        """Return the trial of another seed; what their keys share is hashed once for all."""
        other = dataclasses.replace(self, seed=seed)
        other.__dict__["_without_seed"] = self._without_seed
        return other

    @functools.cached_property
    def _without_seed(self) -> dict[str, str]:
        """The hashes of what determines the weights, beside the seeds, and the scores."""
        return {"weights": sha256_of(self._weights()), "scoring": sha256_of(self._scored())}

    def _weights(self) -> dict[str, Json]:
        """Return what determines the weights beside the seeds."""
        identities = {"backbone": self.identities["backbone"]}
        parts: dict[str, Json] = {"backbone": hashed("backbone", self.config["backbone"])}
        train = self.config["train"]
        if self.is_frozen:
            parts["train"] = hashed("train", {"dtype": train["dtype"]})
            return {**parts, "identities": identities}
        identities |= {name: self.identities.get(name) for name in ("template", "items")}
        named = self.identities.get("sources", {})
        identities["sources"] = _of_section("adapter", named) | _of_section("train", named)
        parts["adapter"] = hashed("adapter", _as_trained(self.config["adapter"]))
        rest = {name: value for name, value in train.items() if name not in _SEEDS}
        parts["train"] = hashed("train", rest)
        return {**parts, "identities": identities}

    @property
    def seeds(self) -> dict[str, int]:
        """The seeds of data order, initial values and dropout: their own, or the trial's."""
        stated = {name: self.config["train"].get(name) for name in _SEEDS}
        return {name: self.seed if value is None else value for name, value in stated.items()}

    @property
    def is_frozen(self) -> bool:
        """Whether the backbone is scored as it is."""
        return bool(self.config["adapter"]["method"] == FROZEN)

    @property
    def is_tuning(self) -> bool:
        """Whether the trial only tries settings on validation items, and reads no test data."""
        return not self.config["data"]["tasks"]

    def _scored(self) -> dict[str, Json]:
        """Return what determines the scores beside the weights."""
        if self.is_tuning:
            return {}
        tasks = sorted(self.config["data"]["tasks"])
        return {
            **self._answered_how(),
            "eval": hashed("eval", self.config["eval"]),
            "tests": {task: self._test_data(task) for task in tasks},
            "sources": _of_section("eval", self.identities.get("sources", {})),
        }

    def _answered_how(self) -> dict[str, Json]:
        section = hashed("adapter", self.config["adapter"])
        return {"template": self.identities["template"], _THRESHOLD: section.get(_THRESHOLD)}

    def _test_data(self, task: str) -> Json:
        return (self.identities.get("data", {}).get(task) or {}).get("test")

    def answers_identity(self, task: str) -> str:
        """Return the hash of what determines the answers to a task, but for the scoring code."""
        how = {n: v for n, v in hashed("eval", self.config["eval"]).items() if n != "knowledge"}
        parts = {"eval": how, "task": task, "test": self._test_data(task)}
        return sha256_of({"training": self.training_key, **self._answered_how(), **parts})

    @property
    def training_config(self) -> dict[str, Json]:
        """The located configuration that training reads: nothing of what is scored, or how."""
        config = self.located_config
        config["adapter"] = {_THRESHOLD: 0.0, **_as_trained(config["adapter"])}
        del config["eval"], config["data"]["tasks"]
        return config

    @property
    def located_config(self) -> dict[str, Json]:
        """The configuration with the files that it names given by their paths on this machine."""
        config: dict[str, Json] = {section: dict(v) for section, v in self.config.items()}
        for name, path in self.sources.items():
            section, _, key = name.partition(".")
            if key in config.get(section, {}):
                _, colon, class_name = config[section][key].rpartition(".py:")
                config[section][key] = f"{path}:{class_name}" if colon else path
        return config

    def to_json(self) -> dict[str, Json]:
        """Return the trial as plain JSON values, its keys included."""
        keys = {"key": self.key, "training_key": self.training_key}
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**keys, **fields, "config": plain(self.config), "left_out": list(self.left_out)}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Trial:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the key in `value` is not the key of its other fields.
        """
        fields = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        fields["config"] = _with_ranges(value["config"])
        fields["left_out"] = tuple(value.get("left_out", ()))
        trial = cls(**fields)
        trial.check_key(value["key"])
        return trial

    def check_key(self, stated: Json) -> None:
        """Compare the key with the one that a file states.

        Raises:
            ValueError: it is another.
        """
        if self.key != stated:
            raise ValueError(
                f"trial {stated} holds fields whose key is {self.key}; "
                "the file was changed by hand or by another version of gatera."
            )


_RANGE = {field.name for field in dataclasses.fields(Range)}


def _with_ranges(config: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the sections of a configuration in which `plain` wrote ranges as JSON."""

    def read(value: Json) -> Json:
        return Range(**value) if isinstance(value, Mapping) and value.keys() == _RANGE else value

    return {s: {name: read(value) for name, value in v.items()} for s, v in config.items()}


def hashed(section: str, fields: Mapping[str, Json]) -> dict[str, Json]:
    """Return what a key holds of a section: not what stands at its neutral value.

    So a field that is added later makes no key new. Left out, too, is what changes the last bits of
    a result but not the experiment.
    """
    known = declared()
    settings = ((known[f"{section}.{name}"], name, value) for name, value in fields.items())
    return {name: value for s, name, value in settings if s.in_key and value != s.neutral}


def _as_trained(section: Mapping[str, Json]) -> dict[str, Json]:
    """Return the section `adapter` as training sees it: no threshold, unless it trains with it."""
    trains_so = section.get("gate_threshold_in_training")
    return {name: value for name, value in section.items() if trains_so or name != _THRESHOLD}


def _of_section(section: str, named: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in named.items() if name.startswith(f"{section}.")}


@dataclass(frozen=True)
class Trained:
    """Trained weights, and what is known of how they came about.

    All but `measured` is a function of the training key, the code and the machine's arithmetic.
    """

    training_key: str
    key: str  # of the trial whose attempt holds them
    attempt: int
    adapter_sha256: Mapping[str, str]  # file of the adapter's folder -> SHA-256 of its bytes
    metrics: Mapping[str, float]  # "train/loss", "val/accuracy", ...
    parameters: Mapping[str, int]  # "trainable", "all"
    provenance: Mapping[str, Json]
    measured: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Trained:
        """Read what `to_json` wrote; unknown fields are a TypeError."""
        return cls(**value)


@dataclass(frozen=True)
class TrialResult:
    """What one finished trial measured.

    Scores are fractions. Everything but `measured` is a function of the trial, the code and the
    machine's arithmetic: a second run on one machine gives the same values.
    """

    key: str
    training_key: str
    seed: int
    attempt: int  # number of the claim that this result was computed under, from 1
    config: Mapping[str, Json]
    metrics: Mapping[str, float]  # "test/accuracy/<task>", "val/accuracy", "train/loss", ...
    gates: Mapping[str, Json]  # gate statistics over test items; empty where nothing is gated
    parameters: Mapping[str, int]  # "trainable", "all"
    predictions_sha256: str
    # "training" (None where nothing was trained) and "scoring" (None where nothing was scored):
    # code by file, versions, device, processor, threads, data, ...
    provenance: Mapping[str, Json]
    measured: Mapping[str, Json] = field(default_factory=dict)  # what a clock or a host says

    @property
    def is_frozen(self) -> bool:
        """Whether the backbone was scored as it is."""
        return bool(self.config["adapter"]["method"] == FROZEN)

    @property
    def parts(self) -> dict[str, Mapping[str, Json]]:
        """The provenance of training and of scoring, of those that there were."""
        return {name: part for name, part in self.provenance.items() if part is not None}

    @property
    def code_sha256(self) -> str:
        """The hash of all code that made the result."""
        return sha256_of({name: part["code"] for name, part in self.parts.items()})

    def to_json(self) -> dict[str, Json]:
        """Return the result as plain JSON values; what is nested in them is the result's own."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> TrialResult:
        """Read what `to_json` wrote; unknown fields are a TypeError."""
        return cls(**value)
