"""From a study to its trials: which there are, with what configuration, under what key. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gatera import backbones, tasks
from gatera.errors import InputError
from gatera.reports.endpoints import LOG_PROBABILITY
from gatera.settings import TrainSettings
from gatera.studies.catalog import LoadedStudy
from gatera.studies.planning.configuration import apply_changes, as_run, scale_defaults, with_values
from gatera.studies.planning.confounds import refuse_undeclared
from gatera.studies.planning.plan import Plan, plan_id
from gatera.studies.planning.planned_data import PlannedData
from gatera.studies.planning.sources import NO_KNOWLEDGE_TEXT, Located, locate, without_folder
from gatera.studies.planning.tuning import (
    PREFIX,
    PlannedTuning,
    plan_tuning,
    split_overrides,
    stated,
)
from gatera.studies.study import FROZEN, Study, Tuning, Variant
from gatera.tasks.prompts import template_identity
from gatera.trial import FROZEN as METHOD_FROZEN
from gatera.trial import Json, Trial

MOST_TRIALS = 20_000  # of a plan


@dataclass(frozen=True)
class Request:
    """What the command line asks of a study; None means the study's own."""

    scale: str = "tiny"
    seeds: int | None = None  # N: seeds 0 to N - 1
    tasks: tuple[str, ...] | None = None
    variants: tuple[str, ...] | None = None
    overrides: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))
    data_root: Path | None = None


def make_plan(loaded: LoadedStudy, request: Request, *, strict: bool = True) -> Plan:
    """Enumerate the trials of a study.

    Trials come seed by seed, the reference first, so that an interrupted run holds whole pairs.

    Args:
        loaded: The study.
        request: What is asked of it.
        strict: Whether missing data, and a row that differs in more than it declares, are
            errors; else a hash is None, and so the keys are those of no trial that could run, and
            `Plan.missing` says what is not there.

    Raises:
        InputError: an unknown scale, task, variant or setting, too many trials, data that cannot
            be found or used, or a row that differs from the reference in more than it declares.
    """
    study = loaded.study
    rows = _selected_rows(loaded, request.variants)
    seeds = _seeds(study, request)
    _refuse_too_many(len(rows) * (request.seeds or len(seeds)))
    base = _shared_config(loaded, request)
    frozen = with_values(base, {"adapter.method": METHOD_FROZEN})
    configs = {FROZEN: as_run(frozen)}
    configs |= {row.name: as_run(_variant_config(base, row, loaded.name)) for row in rows}
    if strict:
        reference = as_run(_variant_config(base, study.variant(study.reference), loaded.name))
        trained = [row for row in rows if configs[row.name]["adapter"]["method"] != METHOD_FROZEN]
        refuse_undeclared(
            loaded.name, study.reference, trained, {**configs, study.reference: reference}
        )
    tuning = _planned_tuning(loaded, request, rows, configs)
    if tuning is not None:
        configs |= {n: with_values(configs[n], row.space) for n, row in tuning.rows.items()}
    folders = (loaded.path.parent, Path())
    data = PlannedData(request.data_root, strict=strict)
    located = {
        name: locate(config, folders, request.data_root, strict=strict)
        for name, config in configs.items()
    }
    unmeasured = located[FROZEN].config["eval"]["knowledge"] is None
    trials = tuple(_enumerate(located, study.reference, seeds, data))
    contrasts, cut = _contrasts(study, {row.name for row in rows})
    return Plan(
        study=loaded.name,
        scale=request.scale,
        title=study.title,
        reproduces=study.reproduces,
        reference=study.reference,
        published=study.published,
        curve=study.curve,
        endpoint=study.endpoint,
        contrasts=contrasts,
        study_sha256=loaded.sha256,
        departures=_departures(loaded, request, base),
        tasks=tuple(base["data"]["tasks"]),
        changes={FROZEN: {}} | {row.name: dict(row.changes) for row in rows},
        trials=trials,
        confounds={row.name: row.confounds for row in rows if row.confounds},
        notes=(*data.notes, *cut, *([NO_KNOWLEDGE_TEXT] if unmeasured else [])),
        tuning=tuning,
        missing=tuple(data.missing),
    )


def plan_id_of(loaded: LoadedStudy, request: Request) -> str:
    """Return the id of the plan that a request names; reads no data.

    Raises:
        InputError: an unknown scale, task, variant or setting.
    """
    _selected_rows(loaded, request.variants)
    departures = _departures(loaded, request, _shared_config(loaded, request))
    return plan_id(loaded.name, request.scale, departures)


def _seeds(study: Study, request: Request) -> Sequence[int]:
    return study.seeds if request.seeds is None else range(request.seeds)


def _refuse_too_many(trials: int) -> None:
    if trials > MOST_TRIALS:
        raise InputError(
            f"{trials:,} trials are more than a plan takes ({MOST_TRIALS:,}); ask for fewer seeds "
            "or rows."
        )


def _contrasts(study: Study, chosen: set[str]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the contrasts whose rows are all chosen, and a note on each that is left out."""
    kept, notes = {}, []
    for contrast in study.contrasts:
        if absent := sorted(contrast.weights.keys() - chosen):
            notes.append(f"{contrast.name}: not asked here, without the row {', '.join(absent)}")
        else:
            kept[contrast.name] = dict(contrast.weights)
    return kept, notes


def _planned_tuning(
    loaded: LoadedStudy,
    request: Request,
    rows: Sequence[Variant],
    configs: Mapping[str, Mapping[str, Json]],
) -> PlannedTuning | None:
    """Return the tuning phase, None where there is none."""
    tuning = stated(loaded.study.tuning, request.overrides, loaded.name)
    trained = [row for row in rows if configs[row.name]["adapter"]["method"] != METHOD_FROZEN]
    if tuning is None or not trained:
        return None
    overrides, _ = split_overrides(request.overrides)
    return plan_tuning(tuning, trained, configs, overrides)


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
    of_scale = dict(loaded.study.at_scale.get(request.scale, {}))
    of_study = of_scale.pop("data.tasks", loaded.study.tasks)
    chosen = request.tasks or of_study
    config = scale_defaults(request.scale)
    for changes in (loaded.study.defaults, of_scale, split_overrides(request.overrides)[0]):
        config = apply_changes(config, changes)
    if chosen is not None:
        for task in chosen:
            tasks.scored(task)  # raises for one that does not exist
        config["data"]["tasks"] = list(chosen)
    _refuse_other_endpoints(loaded.study, config["data"]["tasks"])
    if not config["data"]["train_tasks"]:
        raise InputError("data.train_tasks is empty; name the tasks that are trained on.")
    for task in config["data"]["train_tasks"]:
        tasks.check(task, "train")
    return config


def _refuse_other_endpoints(study: Study, scored: Sequence[str]) -> None:
    """Refuse tasks that are not measured by the study's endpoint."""
    for name in scored:
        task = tasks.scored(name)
        has = {task.metric.name} | ({LOG_PROBABILITY} if task.keywords else set())
        if study.endpoint not in has:
            raise InputError(
                f"the study's endpoint is {study.endpoint}, which task {name} does not have; it is "
                f"measured by {', '.join(sorted(has))}. Score other tasks, or state another "
                "endpoint in the study."
            )


def _variant_config(
    base: Mapping[str, Mapping[str, Json]], variant: Variant, study: str
) -> dict[str, Any]:
    try:
        config = apply_changes(base, variant.changes)
        TrainSettings(**config["train"])  # raises where fields contradict each other
    except InputError as error:
        raise InputError(f"study {study}, variant {variant.name}: {error}") from error
    return config


def _enumerate(
    located: Mapping[str, Located], reference: str, seeds: Sequence[int], data: PlannedData
) -> list[Trial]:
    identities = {name: _identities(found, data) for name, found in located.items()}
    left_out = {name: data.left_out(found.config) for name, found in located.items()}
    order = sorted(located, key=lambda name: (name != FROZEN, name != reference))
    frozen = {n for n in order if located[n].config["adapter"]["method"] == METHOD_FROZEN}
    rows = {
        name: Trial(name, 0, found.config, identities[name], found.paths, left_out[name])
        for name, found in located.items()
    }
    return [
        rows[name] if name in frozen else rows[name].with_seed(seed)
        for seed in seeds
        for name in order
        if name not in frozen or seed == seeds[0]
    ]


def _identities(located: Located, data: PlannedData) -> dict[str, Json]:
    """Return the hashes of everything outside the configuration that determines a result."""
    config = located.config
    identities: dict[str, Json] = {
        "backbone": backbones.identity(config["backbone"]["name"]),
        "template": template_identity(config["data"]["template"]),
        "data": data.fingerprints(config["data"]),
    }
    if "train_tasks" in config["data"]:
        identities["items"] = data.items_sha256(config)
    if located.hashes:
        identities["sources"] = located.hashes
    return identities


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
    if request.seeds is not None and not _are_first(study.seeds, request.seeds):
        departures["seeds"] = request.seeds
    if base["data"]["tasks"] != default["data"]["tasks"]:
        departures["tasks"] = base["data"]["tasks"]
    if request.variants is not None:
        chosen = [row.name for row in study.variants if row.name in request.variants]
        if len(chosen) < len(study.variants):
            departures["variants"] = chosen
    return departures


def _are_first(seeds: Sequence[int], count: int) -> bool:
    return len(seeds) == count and tuple(seeds) == tuple(range(count))


def _default(config: Mapping[str, Mapping[str, Json]], tuning: Tuning | None, setting: str) -> Json:
    section, _, key = setting.partition(".")
    return getattr(tuning, key) if f"{section}." == PREFIX else config[section].get(key)
