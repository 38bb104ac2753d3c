"""A trial and its result: plain frozen values, without torch.

A trial is one training run (variant × seed at a scale), the unit that is scheduled, retried and
stored. What determines its result is in `config`, `seed` and `identities`; its key is a hash of
these, so that equal work is done once, across studies too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any  # what json.loads may return

VALIDATION_ONLY = "validation"  # the `eval.method` of a tuning trial, which answers no test item


def canonical_json(value: Json) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: `value` holds a NaN or an infinity.
        TypeError: `value` holds something that JSON cannot say.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def sha256_of(value: Json) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class Trial:
    """One training run, fully resolved.

    `config` has the sections backbone, adapter, train, eval and data; `adapter` is None for the
    frozen backbone, which is scored and never trained.
    """

    variant: str  # the row of the table; not part of the key
    seed: int  # data order, initial values of the adapter, dropout
    config: Mapping[str, Json]  # resolved configuration, plain JSON values
    identities: Mapping[str, Json]  # hashes of the backbone, tokenizer, template and data files
    # "section.field" -> where the file lies that this field names; not part of the key
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The first 16 hex digits of the hash of all that determines the result."""
        return sha256_of({"config": self.config, "identities": self.identities, "seed": self.seed})[
            :16
        ]

    @property
    def is_tuning(self) -> bool:
        """Whether the trial only tries settings on validation items, and reads no test data."""
        return bool(self.config["eval"].get("method") == VALIDATION_ONLY)

    @property
    def located_config(self) -> dict[str, Json]:
        """The configuration with the files that it names given by their paths on this machine."""
        config = {s: dict(v) if isinstance(v, Mapping) else v for s, v in self.config.items()}
        for name, path in self.sources.items():
            section, _, key = name.partition(".")
            if config.get(section) is not None:
                _, colon, class_name = config[section][key].rpartition(".py:")
                config[section][key] = f"{path}:{class_name}" if colon else path
        return config

    def to_json(self) -> dict[str, Json]:
        """Return the trial as plain JSON values, its key included."""
        return {"key": self.key, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Trial:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the key in `value` is not the key of its other fields.
        """
        trial = cls(
            value["variant"],
            value["seed"],
            value["config"],
            value["identities"],
            value.get("sources", {}),
        )
        if trial.key != value["key"]:
            raise ValueError(
                f"trial {value['key']} holds fields whose key is {trial.key}; "
                "the file was changed by hand or by another version of gatera."
            )
        return trial


@dataclass(frozen=True)
class TrialResult:
    """What one finished trial measured.

    Scores are fractions. Everything but `measured` is a function of the trial, the code and the
    machine's arithmetic: a second run on one machine gives the same values.
    """

    key: str
    seed: int
    attempt: int  # number of the claim that this result was computed under, from 1
    config: Mapping[str, Json]
    metrics: Mapping[str, float]  # "test/accuracy/<task>", "val/accuracy", "train/loss", ...
    gates: Mapping[str, Json]  # gate statistics over test items; empty where nothing is gated
    parameters: Mapping[str, int]  # "trainable", "all"
    predictions_sha256: str
    provenance: Mapping[str, Json]  # code hash, versions, device, dtype, threads, data, ...
    measured: Mapping[str, Json] = field(default_factory=dict)  # what a clock or a host says

    @property
    def seconds(self) -> float:
        """Return how long training, validation and scoring took."""
        phases = ("train_seconds", "validation_seconds", "eval_seconds")
        return float(sum(self.measured.get(phase) or 0.0 for phase in phases))

    def to_json(self) -> dict[str, Json]:
        """Return the result as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> TrialResult:
        """Read what `to_json` wrote; unknown fields are a TypeError."""
        return cls(**value)
