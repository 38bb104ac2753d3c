"""What a study consists of at one scale: its trials, in plain values, as the store keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from gatera.studies.planning.confounds import (
    differing_fields,
    flat_fields,
    undeclared_differences,
)
from gatera.studies.planning.tuning import PlannedTuning
from gatera.trial import Json, Trial, sha256_of

TUNING_SUFFIX = ".tuning"  # of the id of a plan that holds the tuning trials of another


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
    endpoint: str = "accuracy"  # the score that verdicts rest on
    # contrast -> variant -> weight: what verdicts are given on, in place of rows and reference
    contrasts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # what could not be read: no trial of such a plan can run

    @property
    def id(self) -> str:
        """Return the name that the plan's files share; a departure gets a name of its own."""
        name = plan_id(self.study, self.scale, self.departures)
        return f"{name}{TUNING_SUFFIX}" if self.is_tuning else name

    @property
    def tuning_id(self) -> str:
        """Return the id of the plan of this one's tuning trials."""
        return f"{self.id}{TUNING_SUFFIX}"

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
        if not reference or self.trials_of(variant)[0].is_frozen:
            return {}
        differing = differing_fields(self.trials_of(variant)[0].config, reference[0].config)
        tuned = self._tuned_fields() - set(self.changes[variant])
        return {name: values for name, values in differing.items() if name not in tuned}

    def shared(self) -> dict[str, Json]:
        """Return "section.field" -> value of the settings that all trained rows have alike."""
        of_rows = {trial.variant: trial for trial in self.trials if not trial.is_frozen}
        rows = [flat_fields(trial.config) for trial in of_rows.values()]
        if not rows:
            return {}
        tuned = self._tuned_fields()  # each row's own, even where two came to the same value
        return {
            name: value
            for name, value in rows[0].items()
            if name not in tuned and all(name in row and row[name] == value for row in rows)
        }

    def _tuned_fields(self) -> set[str]:
        """Return the fields that rows search: each row has its own values of them."""
        rows = self.tuning.rows.values() if self.tuning is not None else ()
        return {name for row in rows for name in row.space}

    def undeclared(self, variant: str) -> list[str]:
        """Return the fields in which `variant` differs without saying so; `run` refuses them."""
        reference = self.trials_of(self.reference)
        if not reference or self.trials_of(variant)[0].is_frozen:
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
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["tuning"] = None if self.tuning is None else asdict(self.tuning)
        fields |= _trials_to_json(self.trials)
        return {"format": 2, **fields}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Plan:
        """Read what `to_json` wrote."""
        fields = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        fields["tasks"] = tuple(value["tasks"])
        fields["notes"] = tuple(value.get("notes", ()))
        fields["missing"] = tuple(value.get("missing", ()))
        fields["confounds"] = {v: tuple(names) for v, names in value.get("confounds", {}).items()}
        if value.get("tuning") is not None:
            fields["tuning"] = PlannedTuning.from_json(value["tuning"])
        fields["trials"] = _trials_from_json(value)
        return cls(**fields)


def plan_id(study: str, scale: str, departures: Mapping[str, Json]) -> str:
    """Return the name that the files of a plan share."""
    name = f"{study}.{scale}"
    return f"{name}.{sha256_of(departures)[:8]}" if departures else name


_OF_ITS_OWN = ("key", "training_key", "variant", "seed")  # what a plan says of each trial


def _trials_to_json(trials: Sequence[Trial]) -> dict[str, Json]:
    """Return the trials, each with its place among what trials of one row share, but for seeds."""
    shared: list[dict[str, Json]] = []
    places: dict[tuple[object, ...], int] = {}
    listed = []
    for trial in trials:
        same = (trial.variant, id(trial.config), id(trial.identities), id(trial.sources))
        if same not in places:
            places[same] = len(shared)
            told = trial.to_json()
            shared.append({name: told[name] for name in told if name not in _OF_ITS_OWN})
        own = {name: getattr(trial, name) for name in _OF_ITS_OWN}
        listed.append({**own, "shared": places[same]})
    return {"shared": shared, "trials": listed}


def _trials_from_json(value: Mapping[str, Json]) -> tuple[Trial, ...]:
    """Read what `_trials_to_json` wrote.

    Raises:
        ValueError: a trial's key is not that of its fields.
    """
    first: dict[tuple[int, str], Trial] = {}
    trials = []
    for own in value["trials"]:
        same = (own["shared"], own["variant"])
        if same not in first:
            first[same] = Trial.from_json({**value["shared"][own["shared"]], **own})
        trial = first[same].with_seed(own["seed"])
        trial.check_key(own["key"])
        trials.append(trial)
    return tuple(trials)
