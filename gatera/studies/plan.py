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
from gatera.studies.contrast import differing_fields, refuse_undeclared, undeclared_differences
from gatera.studies.sources import NO_KNOWLEDGE_TEXT, Located, locate, without_folder
from gatera.studies.spec import FROZEN, Tuning, Variant
from gatera.studies.tuning import (
    OPEN,
    PREFIX,
    PlannedTuning,
    plan_tuning,
    split_overrides,
    stated,
    with_values,
)
from gatera.tasks.mixture import questions_also_tested
from gatera.tasks.prompts import template_identity
from gatera.trial import Json, Trial, sha256_of

TUNING_SUFFIX = ".tuning"  # of the stem of a plan that holds the tuning trials of another


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
    # variant -> changed settings that are not its question, as the study declares
    confounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a report has to say of the study as a whole
    tuning: PlannedTuning | None = None
    is_tuning: bool = False  # whether these are the tuning trials proposed so far

    @property
    def stem(self) -> str:
        """Return the name that the plan's files share; a departure gets a name of its own."""
        stem = f"{self.study}.{self.scale}"
        stem = f"{stem}.{sha256_of(self.departures)[:8]}" if self.departures else stem
        return f"{stem}{TUNING_SUFFIX}" if self.is_tuning else stem

    @property
    def runnable(self) -> tuple[Trial, ...]:
        """The trials that workers may take: none before every row has its tuned settings."""
        waits = self.tuning is not None and not self.tuning.is_settled and not self.is_tuning
        return () if waits else self.trials

    def trials_of(self, variant: str) -> list[Trial]:
        """Return the trials of `variant`, ordered by seed."""
        return [trial for trial in self.trials if trial.variant == variant]

    def differing(self, variant: str) -> dict[str, tuple[Json, Json]]:
        """Return "section.field" -> (reference's value, variant's value) where they differ.

        Nothing of the frozen backbone, which has no settings of training to differ in, nor where
        the reference is not among the chosen rows.
        """
        reference = self.trials_of(self.reference)
        if variant == FROZEN or not reference:
            return {}
        differing = differing_fields(self.trials_of(variant)[0].config, reference[0].config)
        tuned = self._tuned_fields() - set(self.changes[variant])
        return {name: values for name, values in differing.items() if name not in tuned}

    def _tuned_fields(self) -> set[str]:
        """Return the fields that rows search: each row has its own values of them."""
        rows = self.tuning.rows.values() if self.tuning is not None else ()
        return {name for row in rows for name in row.space}

    def undeclared(self, variant: str) -> list[str]:
        """Return the fields in which `variant` differs without saying so; `run` refuses them."""
        reference = self.trials_of(self.reference)
        if variant == FROZEN or not reference:
            return []
        found = undeclared_differences(
            self.changes[variant],
            self.confounds.get(variant, ()),
            self.trials_of(variant)[0].config,
            reference[0].config,
        )
        return [name for name in found if name not in self._tuned_fields()]

    def to_json(self) -> dict[str, Json]:
        """Return the plan as plain JSON values."""
        fields = {name: value for name, value in asdict(self).items() if name != "trials"}
        return {"format": 1, **fields, "trials": [trial.to_json() for trial in self.trials]}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Plan:
        """Read what `to_json` wrote."""
        fields = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        fields["tasks"] = tuple(value["tasks"])
        fields["notes"] = tuple(value.get("notes", ()))
        fields["confounds"] = {v: tuple(names) for v, names in value.get("confounds", {}).items()}
        if value.get("tuning") is not None:
            fields["tuning"] = PlannedTuning.from_json(value["tuning"])
        fields["trials"] = tuple(Trial.from_json(trial) for trial in value["trials"])
        return cls(**fields)


def make_plan(loaded: LoadedStudy, request: Request, *, strict: bool = True) -> Plan:
    """Enumerate the trials of a study.

    Trials come seed by seed, the reference first, so that an interrupted run holds whole pairs.

    Args:
        loaded: The study.
        request: What is asked of it.
        strict: Whether missing data, and a row that differs in more than it declares, are
            errors; else a hash is None, and so the keys are those of no trial that could run.

    Raises:
        InputError: an unknown scale, task, variant or setting, data that cannot be found, or a
            row that differs from the reference in more than its declared change.
    """
    study = loaded.study
    rows = _selected_rows(loaded, request.variants)
    base = _shared_config(loaded, request)
    configs = {FROZEN: _frozen_config(base)}
    configs |= {row.name: _variant_config(base, row, loaded.name) for row in rows}
    if strict:
        reference = _variant_config(base, study.variant(study.reference), loaded.name)
        refuse_undeclared(
            loaded.name, study.reference, rows, {**configs, study.reference: reference}
        )
    tuning = _planned_tuning(loaded, request, rows, configs, strict)
    if tuning is not None:
        open_fields = {name: dict.fromkeys(row.space, OPEN) for name, row in tuning.rows.items()}
        configs |= {name: with_values(configs[name], each) for name, each in open_fields.items()}
    folders = (loaded.path.parent, Path())
    located = {
        name: locate(config, folders, request.data_root, strict=strict)
        for name, config in configs.items()
    }
    unmeasured = located[FROZEN].config["eval"]["knowledge"] is None
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
        trials=tuple(_enumerate(located, study.reference, seeds, request.data_root, strict)),
        confounds={row.name: row.confounds for row in rows if row.confounds},
        notes=(NO_KNOWLEDGE_TEXT,) if unmeasured else (),
        tuning=tuning,
    )


def _planned_tuning(
    loaded: LoadedStudy,
    request: Request,
    rows: Sequence[Variant],
    configs: Mapping[str, Mapping[str, Json]],
    strict: bool,
) -> PlannedTuning | None:
    """Return the tuning phase, None where there is none; without hashes unless strict."""
    tuning = stated(loaded.study.tuning, request.overrides, loaded.name)
    if tuning is None or not rows:
        return None

    def left_out(data: Mapping[str, Json]) -> list[str]:
        if not strict:
            return []
        return questions_also_tested(data["train_tasks"], data["tasks"], request.data_root)

    overrides, _ = split_overrides(request.overrides)
    return plan_tuning(tuning, rows, configs, overrides, left_out)


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
    config = settings.apply_changes(config, split_overrides(request.overrides)[0])
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
    located: Mapping[str, Located],
    reference: str,
    seeds: Sequence[int],
    data_root: Path | None,
    strict: bool,
) -> list[Trial]:
    @functools.cache
    def fingerprint(task: str, split: str) -> str | None:
        return _fingerprint(task, split, data_root, strict)

    identities = {name: _identities(found, fingerprint) for name, found in located.items()}
    order = sorted(located, key=lambda name: (name != FROZEN, name != reference))
    trials = []
    for seed in seeds:
        for name in order:
            if name == FROZEN and seed != seeds[0]:
                continue
            of_trial = 0 if name == FROZEN else seed
            found = located[name]
            trials.append(Trial(name, of_trial, found.config, identities[name], found.paths))
    return trials


def _identities(located: Located, fingerprint: Callable[[str, str], str | None]) -> dict[str, Json]:
    """Return the hashes of everything outside the configuration that determines a result."""
    config, data = located.config, located.config["data"]
    files: dict[str, dict[str, str | None]] = {}
    for split, names in (("train", data.get("train_tasks", [])), ("test", data["tasks"])):
        for task in names:
            files.setdefault(task, {})[split] = fingerprint(task, split)
    return {
        "backbone": backbones.identity(config["backbone"]["name"]),
        "template": template_identity(data["template"]),
        "data": files,
        **({"sources": located.hashes} if located.hashes else {}),
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
    searched = study.tuning.search if study.tuning is not None else {}  # by --set they are fixed
    changed = {
        name: without_folder(name, value)
        for name, value in request.overrides.items()
        if name in searched or _default(default, study.tuning, name) != value
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


def _default(config: Mapping[str, Mapping[str, Json]], tuning: Tuning | None, setting: str) -> Json:
    section, _, key = setting.partition(".")
    return getattr(tuning, key) if f"{section}." == PREFIX else config[section].get(key)
