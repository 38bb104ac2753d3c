"""From a study to its trials: which there are, with what configuration, under what key. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from gatera import backbones, tasks
from gatera.errors import InputError
from gatera.studies import settings
from gatera.studies.catalog import LoadedStudy
from gatera.studies.spec import FROZEN, Variant
from gatera.tasks.prompts import template_identity
from gatera.trial import Json, Trial, sha256_of


@dataclass(frozen=True)
class Request:
    """What the command line asks of a study; None means the study's own."""

    scale: str = "tiny"
    seeds: int | None = None  # N: seeds 0 to N - 1
    tasks: tuple[str, ...] | None = None
    variants: tuple[str, ...] | None = None
    overrides: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))
    data_root: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What a study consists of at one scale: every trial, enumerated."""

    study: str
    scale: str
    title: str
    reproduces: str
    reference: str
    published: str | None
    curve: str | None
    study_sha256: str
    departures: Mapping[str, Json]  # how the request departs from the study's defaults
    tasks: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Json]]  # variant -> declared changes, in row order
    trials: tuple[Trial, ...]

    @property
    def stem(self) -> str:
        """Return the name that the plan's files share; a departure gets a name of its own."""
        stem = f"{self.study}.{self.scale}"
        return f"{stem}.{sha256_of(self.departures)[:8]}" if self.departures else stem

    def trials_of(self, variant: str) -> list[Trial]:
        """Return the trials of `variant`, ordered by seed."""
        return [trial for trial in self.trials if trial.variant == variant]

    def to_json(self) -> dict[str, Json]:
        """Return the plan as plain JSON values."""
        fields = {name: value for name, value in asdict(self).items() if name != "trials"}
        return {"format": 1, **fields, "trials": [trial.to_json() for trial in self.trials]}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Plan:
        """Read what `to_json` wrote."""
        fields = {name: value[name] for name in cls.__dataclass_fields__}
        fields["tasks"] = tuple(value["tasks"])
        fields["trials"] = tuple(Trial.from_json(trial) for trial in value["trials"])
        return cls(**fields)


def make_plan(loaded: LoadedStudy, request: Request, *, strict: bool = True) -> Plan:
    """Enumerate the trials of a study.

    Trials come seed by seed, the reference first, so that an interrupted run holds whole pairs.

    Args:
        loaded: The study.
        request: What is asked of it.
        strict: Whether missing data is an error; else its hash is None, and so the keys are
            those of no trial that could run.

    Raises:
        InputError: an unknown scale, task, variant or setting, or data that cannot be found.
    """
    study = loaded.study
    rows = _selected_rows(loaded, request.variants)
    base = _shared_config(loaded, request)
    configs = {FROZEN: _frozen_config(base)}
    configs |= {row.name: _variant_config(base, row, loaded.name) for row in rows}
    seeds = study.seeds if request.seeds is None else tuple(range(request.seeds))
    return Plan(
        study=loaded.name,
        scale=request.scale,
        title=study.title,
        reproduces=study.reproduces,
        reference=study.reference,
        published=study.published,
        curve=study.curve,
        study_sha256=loaded.sha256,
        departures=_departures(loaded, request, base),
        tasks=tuple(base["data"]["tasks"]),
        changes={FROZEN: {}} | {row.name: dict(row.changes) for row in rows},
        trials=tuple(_enumerate(configs, study.reference, seeds, request.data_root, strict)),
    )


def _selected_rows(loaded: LoadedStudy, names: Sequence[str] | None) -> list[Variant]:
    study = loaded.study
    if names is None:
        return list(study.variants)
    for name in names:
        if name != FROZEN:
            study.variant(name)  # raises for one that does not exist
    return [variant for variant in study.variants if variant.name in names]


def _shared_config(loaded: LoadedStudy, request: Request) -> dict[str, dict[str, Json]]:
    """Return the configuration that all variants share."""
    config = settings.scale_defaults(request.scale)
    config = settings.apply_changes(config, loaded.study.defaults)
    config = settings.apply_changes(config, request.overrides)
    chosen = request.tasks or loaded.study.tasks
    if chosen is not None:
        for task in chosen:
            tasks.keywords(task)  # raises for one that does not exist
        config["data"]["tasks"] = list(chosen)
    return config


def _variant_config(
    base: Mapping[str, Mapping[str, Json]], variant: Variant, study: str
) -> dict[str, Json]:
    try:
        return settings.apply_changes(base, variant.changes)
    except InputError as error:
        raise InputError(f"study {study}, variant {variant.name}: {error}") from error


def _frozen_config(base: Mapping[str, Mapping[str, Json]]) -> dict[str, Json]:
    """Return what determines the untrained backbone's scores, and nothing of the training."""
    return {
        "backbone": dict(base["backbone"]),
        "adapter": None,
        "train": {"dtype": base["train"]["dtype"]},
        "eval": dict(base["eval"]),
        "data": {"template": base["data"]["template"], "tasks": base["data"]["tasks"]},
    }


def _enumerate(
    configs: Mapping[str, Mapping[str, Json]],
    reference: str,
    seeds: Sequence[int],
    data_root: Path | None,
    strict: bool,
) -> list[Trial]:
    @functools.cache
    def fingerprint(task: str, split: str) -> str | None:
        return _fingerprint(task, split, data_root, strict)

    identities = {name: _identities(config, fingerprint) for name, config in configs.items()}
    order = sorted(configs, key=lambda name: (name != FROZEN, name != reference))
    trials = []
    for seed in seeds:
        for name in order:
            if name == FROZEN and seed != seeds[0]:
                continue
            of_trial = 0 if name == FROZEN else seed
            trials.append(Trial(name, of_trial, configs[name], identities[name]))
    return trials


def _identities(
    config: Mapping[str, Json], fingerprint: Callable[[str, str], str | None]
) -> dict[str, Json]:
    """Return the hashes of everything outside the configuration that determines a result."""
    data = config["data"]
    files: dict[str, dict[str, str | None]] = {}
    for split, names in (("train", data.get("train_tasks", [])), ("test", data["tasks"])):
        for task in names:
            files.setdefault(task, {})[split] = fingerprint(task, split)
    return {
        "backbone": backbones.identity(config["backbone"]["name"]),
        "template": template_identity(data["template"]),
        "data": files,
    }


def _fingerprint(task: str, split: str, data_root: Path | None, strict: bool) -> str | None:
    """Return the hash of a split; where strict, only of one whose every record can be used."""
    if strict:
        tasks.load(task, split, data_root)
        return tasks.fingerprint(task, split, data_root)
    try:
        return tasks.fingerprint(task, split, data_root)
    except InputError:
        return None


def _departures(
    loaded: LoadedStudy, request: Request, base: Mapping[str, Mapping[str, Json]]
) -> dict[str, Json]:
    """Return how `request` departs from the study's defaults at its scale; {} where it does not."""
    study = loaded.study
    default = _shared_config(loaded, Request(scale=request.scale))
    departures: dict[str, Json] = {}
    changed = {
        name: value
        for name, value in request.overrides.items()
        if default[name.partition(".")[0]].get(name.partition(".")[2]) != value
    }
    if changed:
        departures["set"] = changed
    if request.seeds is not None and tuple(range(request.seeds)) != tuple(study.seeds):
        departures["seeds"] = request.seeds
    if base["data"]["tasks"] != default["data"]["tasks"]:
        departures["tasks"] = base["data"]["tasks"]
    if request.variants is not None:
        chosen = [row.name for row in study.variants if row.name in request.variants]
        if len(chosen) < len(study.variants):
            departures["variants"] = chosen
    return departures
