"""What tuning is, in plain values: each row's search space, its trials, and its choice. Pure.

`search.py` has the search itself (Optuna), `tuner.py` carries it out on a store.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from gatera.errors import InputError
from gatera.settings import TUNING
from gatera.studies.planning.configuration import Range, is_number, with_values
from gatera.studies.planning.sources import KNOWLEDGE
from gatera.studies.study import Tuning, Variant
from gatera.trial import Json, Trial

PREFIX = f"{TUNING}."

_ENTROPY = "train.entropy_weight"
_EDGE_SHARE = 0.05  # of a range: a choice that is as near to an end counts as lying on it
# Training seeds of tuning trials lie above those of any table: no seed of the table has a say in
# which settings suit it.
_SEED_OFFSET = 1_000_000


def is_edge(space: Range, value: float) -> bool:
    """Return whether `value` lies at an end of a range: within a twentieth of it."""
    low, high, at = (
        (math.log(each) for each in (space.low, space.high, value))
        if space.log
        else (space.low, space.high, value)
    )
    place = (at - low) / (high - low)
    return not _EDGE_SHARE < place < 1 - _EDGE_SHARE


@dataclass(frozen=True)
class Choice:
    """What a row's search ended with."""

    settings: Mapping[str, float]  # "section.field" -> value
    accuracy: float  # on the validation items
    pruned: int  # trials that were ended early, of the budget
    diverged: int  # trials whose loss was not finite any more


@dataclass(frozen=True)
class TunedRow:
    """One row's search."""

    space: Mapping[str, Range]  # "section.field" -> where it is looked for
    choice: Choice | None = None  # None until the search has ended
    # What is tried first: the row as it would be untuned. None where that lies outside the space.
    start: Mapping[str, float] | None = None

    @property
    def edges(self) -> tuple[str, ...]:
        """The fields whose chosen value lies at an edge of the search space."""
        if self.choice is None:
            return ()
        chosen = self.choice.settings
        return tuple(name for name, each in self.space.items() if is_edge(each, chosen[name]))


@dataclass(frozen=True)
class PlannedTuning:
    """A plan's tuning phase."""

    trials: int  # points that each row tries
    steps: int | None  # optimizer steps of a trial; None: those of the seeds
    validate_every: int | None  # steps; None: as the seeds
    round_size: int
    pruner: str | None
    seed: int
    rows: Mapping[str, TunedRow]  # by variant
    seeds: int = 1  # tuning trials of each point

    @property
    def total(self) -> int:
        """The number of tuning trials of all rows."""
        return self.trials * self.seeds * len(self.rows)

    @property
    def is_settled(self) -> bool:
        """Whether every row has its choice."""
        return all(row.choice is not None for row in self.rows.values())

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Self:
        """Read what `dataclasses.asdict` gave."""
        rows = {
            variant: TunedRow(
                space={name: Range(**each) for name, each in row["space"].items()},
                choice=None if row["choice"] is None else Choice(**row["choice"]),
                start=row.get("start"),
            )
            for variant, row in value["rows"].items()
        }
        return cls(**{**value, "rows": rows})


# From a study to its tuning phase


def split_overrides(
    overrides: Mapping[str, Json],
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return what `--set` says of trials, and what it says of the tuning phase, by field."""
    of_tuning = {name: value for name, value in overrides.items() if name.startswith(PREFIX)}
    return {name: v for name, v in overrides.items() if name not in of_tuning}, of_tuning


def stated(tuning: Tuning | None, overrides: Mapping[str, Json], study: str) -> Tuning | None:
    """Return the tuning phase that a study states, as `--set tuning.<field>` changes it.

    Raises:
        InputError: there is none to change, or a value does not fit.
    """
    of_tuning = split_overrides(overrides)[1]
    if not of_tuning:
        return tuning
    if tuning is None:
        raise InputError(
            f"--set {next(iter(of_tuning))}: study {study} has no tuning phase; declare one in "
            "its file: Study(..., tuning=Tuning(...))."
        )
    changed = {name.removeprefix(PREFIX): value for name, value in of_tuning.items()}
    return dataclasses.replace(tuning, **changed)


def plan_tuning(
    tuning: Tuning,
    variants: Sequence[Variant],
    configs: Mapping[str, Mapping[str, Json]],
    overrides: Mapping[str, Json],
) -> PlannedTuning:
    """Return the tuning phase of a plan.

    Args:
        tuning: What the study states.
        variants: The rows.
        configs: Their resolved configurations.
        overrides: Settings that `--set` fixes for all rows.

    Raises:
        InputError: a searched field is not one, or no row has anything to search.
    """
    for name in tuning.search:
        if not is_number(name):
            raise InputError(f"tuning.search: {name} is no setting that takes any number.")
    validate_every = tuning.validate_every
    if validate_every is None and tuning.steps is not None:
        validate_every = max(1, tuning.steps // 4)
    spaces = {v.name: _space(tuning, v, configs[v.name], overrides) for v in variants}
    if not any(spaces.values()):
        raise InputError(
            f"there is nothing left to tune: {', '.join(tuning.search)} are fixed by the rows' "
            "changes, by --set, or have no effect on them. Leave one free, or run the study "
            "without tuning."
        )
    rows = {
        name: TunedRow(space, start=_start(space, configs[name]))
        for name, space in spaces.items()
        if space
    }
    return PlannedTuning(
        trials=tuning.trials,
        steps=tuning.steps,
        validate_every=validate_every,
        round_size=tuning.round_size,
        pruner=tuning.pruner,
        seed=tuning.seed,
        seeds=tuning.seeds,
        rows=rows,
    )


def _space(
    tuning: Tuning,
    variant: Variant,
    config: Mapping[str, Json],
    overrides: Mapping[str, Json],
) -> dict[str, Range]:
    """Return what a row searches: what neither its changes nor `--set` fix, and what it has.

    Nothing, where these fix all: such a row is the point that it states.
    """
    fixed = {*variant.changes, *overrides}
    if config["adapter"].get("gate") == "none" or not config["train"]["entropy_weight"]:
        fixed.add(_ENTROPY)  # there is no entropy term
    ranges = {**tuning.search, **tuning.by_variant.get(variant.name, {})}
    return {
        name: Range(float(ends[0]), float(ends[1]), len(ends) == 3)
        for name, ends in ranges.items()
        if name not in fixed
    }


def _start(space: Mapping[str, Range], config: Mapping[str, Json]) -> dict[str, float] | None:
    """Return the row's own settings of what is searched; None where they lie outside."""
    own = {name: config[section][key] for name, (section, key) in _split(space).items()}
    inside = all(
        isinstance(own[name], int | float) and each.low <= own[name] <= each.high
        for name, each in space.items()
    )
    return {name: float(value) for name, value in own.items()} if inside else None


def _split(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return "section.field" -> (section, field)."""
    parts = {name: name.partition(".") for name in names}
    return {name: (section, key) for name, (section, _, key) in parts.items()}


# From a configuration to its tuning trials, and back


def tuning_trials(
    tuning: PlannedTuning, open_trial: Trial, values: Mapping[str, float]
) -> list[Trial]:
    """Return the trials that try `values` for a row, one of each tuning seed.

    They score no task, so that nothing leads them to test data; the questions that a test set asks
    are left out by their hash, as in the seeds' own training.

    Args:
        tuning: The phase that it belongs to.
        open_trial: A trial of the row, whose searched fields are open.
        values: "section.field" -> value.
    """
    config = with_values(open_trial.config, values)
    train: dict[str, Json] = {"knowledge": None}
    if tuning.steps is not None:
        train |= {"max_steps": tuning.steps, "epochs": None}
    if tuning.validate_every is not None:
        train["validation_every"] = tuning.validate_every
    config["train"] |= train
    config["eval"] = {}
    config["data"]["tasks"] = []
    sources = {name: path for name, path in open_trial.sources.items() if name not in KNOWLEDGE}
    first = dataclasses.replace(
        open_trial,
        seed=_SEED_OFFSET + tuning.seed,
        config=config,
        identities=_identities(open_trial, sources),
        sources=sources,
    )
    return [first, *(first.with_seed(first.seed + n) for n in range(1, tuning.seeds))]


def _identities(open_trial: Trial, sources: Mapping[str, str]) -> dict[str, Json]:
    """Return the hashes of what a tuning trial reads: of no test set."""
    kept = {name: v for name, v in open_trial.identities.items() if name not in ("data", "sources")}
    data = open_trial.identities["data"]
    kept["data"] = {
        task: {"train": splits["train"]} for task, splits in data.items() if "train" in splits
    }
    if sources:
        hashes = open_trial.identities["sources"]
        kept["sources"] = {name: hashes[name] for name in sources}
    return kept


def values_of(trial: Trial, space: Mapping[str, Range]) -> dict[str, float]:
    """Return the values that a tuning trial tries."""
    return {name: trial.config[section][key] for name, (section, key) in _split(space).items()}
