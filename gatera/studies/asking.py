"""What is asked of a study: which it is, and how it departs from its defaults."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatera.errors import InputError
from gatera.studies.catalog import LoadedStudy
from gatera.studies.catalog import load as load_study
from gatera.studies.study import Study, check_name
from gatera.trial import Json

if TYPE_CHECKING:
    from gatera.studies.planning.enumeration import Request
    from gatera.studies.planning.plan import Plan

STORE = "gatera-store"  # the store's folder, unless another is named


@dataclass(frozen=True)
class Asked:
    """Which study, and how it departs from its defaults."""

    loaded: LoadedStudy
    request: Request
    named: str | None = None  # as the command line names it; None: made in Python

    @classmethod
    def of(
        cls,
        study: str | Path | Study,
        *,
        name: str | None = None,
        scale: str = "tiny",
        seeds: int | None = None,
        tasks: Sequence[str] | None = None,
        variants: Sequence[str] | None = None,
        set: Mapping[str, Json] | Sequence[str] | None = None,
        data_root: str | Path | None = None,
    ) -> Asked:
        """Read what is asked.

        Args:
            study: A study's name, the path of a study file, or a `Study`.
            name: Of a `Study` that was made in Python: what its files are called. None: made of
                its title.
            scale: tiny, small or paper.
            seeds: N: seeds 0 to N - 1. None: the study's own.
            tasks: The tasks that are scored. None: the study's own.
            variants: The rows that are run. None: all.
            set: Settings changed for all rows: {"train.max_steps": 40}, or the command line's
                "train.max_steps=40".
            data_root: Where the real data sets lie. None: GATERA_DATA_ROOT.

        Raises:
            InputError: what is asked cannot be understood.
        """
        from gatera.studies.planning.configuration import parse_overrides, typed_overrides
        from gatera.studies.planning.enumeration import Request

        loaded = _stated(study, name) if isinstance(study, Study) else load_study(str(study))
        if isinstance(set, Mapping):
            _refuse_classes(set)
            changes = typed_overrides(set)
        else:
            changes = parse_overrides(set or ())
        request = Request(
            scale=scale,
            seeds=seeds,
            tasks=None if tasks is None else tuple(tasks),
            variants=None if variants is None else tuple(variants),
            overrides=changes,
            data_root=None if data_root is None else Path(data_root),
        )
        return cls(loaded, request, None if isinstance(study, Study) else str(study))

    def plan(self, *, strict: bool) -> Plan:
        """Return the plan; `strict`: what no trial could run with is an error."""
        from gatera.studies.planning.enumeration import make_plan

        return make_plan(self.loaded, self.request, strict=strict)

    @property
    def plan_id(self) -> str:
        """The plan's id; reads no data."""
        from gatera.studies.planning.enumeration import plan_id_of

        return plan_id_of(self.loaded, self.request)

    @property
    def words(self) -> list[str] | None:
        """The words by which the command line asks the same; None of a study made in Python."""
        if self.named is None:
            return None
        asked = self.request
        words = [self.named] if asked.scale == "tiny" else [self.named, "--scale", asked.scale]
        if asked.seeds is not None:
            words += ["--seeds", str(asked.seeds)]
        for option, names in (("--tasks", asked.tasks), ("--variants", asked.variants)):
            words += [] if names is None else [option, ",".join(names)]
        for name, value in asked.overrides.items():
            words += ["--set", f"{name}={_as_word(value)}"]
        return words


def _as_word(value: Json) -> str:
    """Return a setting's value as `--set` takes it; a comma alone would make a list of it."""
    return value if isinstance(value, str) and "," not in value else json.dumps(value)


def _stated(study: Study, name: str | None) -> LoadedStudy:
    """Return a study that was made in Python as one that came from a file."""
    for changes in (study.defaults, *study.at_scale.values(), *(v.changes for v in study.variants)):
        _refuse_classes(changes)
    called = name or re.sub(r"[^a-z0-9]+", "_", study.title.lower()).strip("_")[:40] or "study"
    check_name("study", called)
    return LoadedStudy(
        called, study, Path(f"{called}.py"), hashlib.sha256(repr(study).encode()).hexdigest()
    )


_OF_A_MODULE = re.compile(r"[A-Za-z_][\w.]*(?<!\.py):(?P<name>[A-Za-z_]\w*)")  # __main__:MyGate


def _refuse_classes(changes: Mapping[str, Json]) -> None:
    """Refuse a gate or an update that lives in this process alone: workers could not load it."""
    from gatera.studies.planning.sources import OWN_CLASSES

    for setting, value in changes.items():
        said = _class_name(value)
        if said is not None and (not isinstance(value, str) or setting in OWN_CLASSES):
            shown = value if isinstance(value, str) else said
            raise InputError(
                f"{setting}={shown}: a class made here is not known to the processes that train; "
                f"save it in a file and name it, such as {setting}='my_gate.py:{said}'."
            )


def _class_name(value: Json) -> str | None:
    """Return the name of the class that a value is, is made of, or names by its module."""
    if isinstance(value, str):
        named = _OF_A_MODULE.fullmatch(value)
        return None if named is None else named["name"]
    if isinstance(value, type):
        return value.__name__
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return None
