"""What a study is: declarative, plain values, checked where they are stated.

A study file holds one constant, `STUDY = Study(...)`, and imports nothing heavier than this.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gatera.declaring import fields_of
from gatera.errors import InputError
from gatera.reports.endpoints import ENDPOINTS
from gatera.settings import SCALES, TuningSettings
from gatera.trial import Json

FROZEN = "frozen"  # the row of the untrained backbone, which every study has

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NO_CHANGES: Mapping[str, Json] = MappingProxyType({})
_AT_NO_SCALE: Mapping[str, Mapping[str, Json]] = MappingProxyType({})


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is lower_snake_case, and so safe as a file name.

    Raises:
        InputError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{kind} name {name!r} is not lower_snake_case; use letters a to z, digits and "
            "underscores, starting with a letter, at most 64 characters."
        )
    return name


@dataclass(frozen=True)
class Variant:
    """One row of the table, stated as a change to the study's reference.

    `changes` maps "section.field" to a value, as `--set` does: `{"adapter.gate": "none"}`.
    """

    name: str
    changes: Mapping[str, Json] = field(default_factory=lambda: _NO_CHANGES)
    # Changed settings of the protocol (data, loss mask, learning rate, steps, decoding) that are
    # not the row's question: without this declaration they may not stand beside another change.
    confounds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name("variant", self.name)
        unchanged = [name for name in self.confounds if name not in self.changes]
        if unchanged:
            raise InputError(
                f"variant {self.name}: confounds names {', '.join(unchanged)}, which its changes "
                "do not change; leave it out, or state the change."
            )


@dataclass(frozen=True)
class Contrast:
    """A question that is not one row against the reference: a weighted sum of rows, by seed.

    `Contrast("gate on lora", {"gated_lora": 1, "lora": -1})` asks for a difference, four rows with
    weights 1, -1, -1, 1 for a difference of differences. A study that states contrasts gives its
    verdicts on them alone.
    """

    name: str  # what a report calls it: one line
    weights: Mapping[str, float]  # variant -> its weight; they add up to 0

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > 80 or not self.name.isprintable():
            raise InputError(f"contrast name {self.name!r}: expected one line, at most 80 letters.")
        values = list(self.weights.values())
        numbers = all(isinstance(each, int | float) and math.isfinite(each) for each in values)
        if not numbers or 0 in values or len(values) < 2 or abs(sum(values)) > 1e-9:
            raise InputError(
                f"contrast {self.name!r} has the weights {dict(self.weights)}; expected those of "
                "two rows or more, none of them 0, that add up to 0: {'gated': 1, 'plain': -1}."
            )


SearchRange = tuple[float, float] | tuple[float, float, str]
_NO_RANGES: Mapping[str, Mapping[str, SearchRange]] = MappingProxyType({})


@dataclass(frozen=True)
class Tuning(TuningSettings):
    """A search for each row's own settings on validation data, before any seed runs.

    Every row that has anything to search has the same number of trials. A row searches the fields
    of `search` that neither its changes nor `--set` fix; λ only where it has a gate and an entropy
    term. The first trial has the row's untuned settings, where they lie in its ranges. Proposals
    come in rounds, each made when the one before has ended: so they depend on results, never on
    which worker was faster. Tuning trials read no test data.
    """

    # "section.field" -> (low, high), or (low, high, "log") where it is even in the logarithm
    search: Mapping[str, SearchRange]
    # variant -> fields of `search` whose range is another for this row
    by_variant: Mapping[str, Mapping[str, SearchRange]] = field(default_factory=lambda: _NO_RANGES)

    def __post_init__(self) -> None:
        for setting in fields_of(TuningSettings):
            dataclasses.replace(setting, name=f"tuning.{setting.name}").typed(
                getattr(self, setting.name)
            )
        if not self.search:
            raise InputError("tuning.search is empty; name the fields to tune, with their ranges.")
        for name, ends in self.search.items():
            _check_range(name, tuple(ends))
        for variant, ranges in self.by_variant.items():
            for name, ends in ranges.items():
                if name not in self.search:
                    raise InputError(
                        f"tuning.by_variant: {variant} searches {name}, which tuning.search does "
                        "not name; all rows search the same fields."
                    )
                _check_range(name, tuple(ends))


def _check_range(name: str, ends: tuple[Json, ...]) -> None:
    numbers = len(ends) in (2, 3) and all(isinstance(end, int | float) for end in ends[:2])
    if not numbers or ends[2:] not in ((), ("log",)) or not ends[0] < ends[1]:
        raise InputError(
            f"tuning.search: {name}={ends!r}; expected (low, high) or (low, high, 'log'), "
            "low below high."
        )
    if ends[2:] and ends[0] <= 0:
        raise InputError(f"tuning.search: {name}={ends!r}; a range in logarithms begins above 0.")


@dataclass(frozen=True)
class Study:
    """The question behind one table or figure.

    The frozen backbone is added as a row of its own: it needs no training and one trial.
    """

    variants: tuple[Variant, ...]
    reference: str  # name of the variant that the others are compared with
    title: str = ""  # one line, shown by `list`
    reproduces: str = ""  # what it reproduces, with its source; "" where it asks a new question
    tasks: tuple[str, ...] | None = None  # what is scored; None: the scale's own tasks
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    endpoint: str = "accuracy"  # the score that verdicts rest on
    defaults: Mapping[str, Json] = field(default_factory=lambda: _NO_CHANGES)  # for all variants
    # scale -> the same at that scale alone; "data.tasks" stands for `tasks` there
    at_scale: Mapping[str, Mapping[str, Json]] = field(default_factory=lambda: _AT_NO_SCALE)
    published: str | None = None  # name of a table in gatera.reports.published
    contrasts: tuple[Contrast, ...] = ()  # what verdicts are given on; none: rows and reference
    curve: str | None = None  # "section.field" drawn along the x axis of a figure
    tuning: Tuning | None = None  # None: all rows share the settings that they do not change

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if FROZEN in names:
            raise InputError(f"variant name {FROZEN!r} is kept for the untrained backbone.")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InputError(f"variant names stand twice: {', '.join(repeated)}; rename one.")
        if self.reference not in names:
            raise InputError(
                f"reference {self.reference!r} is not among the variants {', '.join(names)}."
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"seeds {self.seeds} must be distinct and at least one.")
        wrong = [s for s in self.seeds if isinstance(s, bool) or not isinstance(s, int) or s < 0]
        if wrong:
            raise InputError(f"seeds {self.seeds} hold {wrong[0]!r}; give whole numbers from 0 on.")
        if unknown := sorted(self.at_scale.keys() - set(SCALES)):
            raise InputError(
                f"at_scale names {', '.join(unknown)}; the scales are {', '.join(SCALES)}."
            )
        for name in self.tuning.by_variant if self.tuning is not None else ():
            self.variant(name)  # raises for one that does not exist
        asked = [contrast.name for contrast in self.contrasts]
        if len(set(asked)) < len(asked):
            raise InputError(f"contrast names stand twice among {', '.join(asked)}; rename one.")
        for contrast in self.contrasts:
            for name in contrast.weights:
                self.variant(name)  # raises for one that does not exist
        if self.endpoint not in ENDPOINTS:
            known = ", ".join(ENDPOINTS)
            raise InputError(f"endpoint {self.endpoint!r} is not known; known: {known}.")

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`.

        Raises:
            InputError: there is none; the message lists those there are.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join([FROZEN, *(variant.name for variant in self.variants)])
        raise InputError(f"no variant {name!r} in this study; it has {known}.")
