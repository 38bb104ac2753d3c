"""Bringing stores together: what others have finished is copied into one, each trial once.

A trial of which the store has nothing appears with one rename, whole. Where the store has begun
it, the copy is an attempt like any other: claimed, filled, committed. Killed, the same command
goes on. The other stores are only read.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.running.supervisor import supervising
from gatera.studies.store.attempts import RECORD_FILE, read_record, write_record
from gatera.studies.store.owner import owner_of_this_process, worker_name
from gatera.studies.store.results import result_sha256
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import link_whole
from gatera.training.attempt_files import CHECKPOINT_FOLDER, sync_to_disk
from gatera.trial import Json, Trained, TrialResult

_NOT_COPIED = (CHECKPOINT_FOLDER, "tmp", RECORD_FILE)  # of an attempt that becomes another
_COPY = ".merge-"  # begins the name of a folder whose trial is not whole yet
_NAMED = 3  # files or numbers that differ


@dataclass
class Merged:
    """What became of one store's trials."""

    source: Path
    brought: int = 0
    known: int = 0  # finished in both, with equal results
    unfinished: int = 0
    unequal: list[str] = field(default_factory=list)  # a line each: the store's own result stays
    other_plans: list[str] = field(default_factory=list)  # of one id: the store's own stays


def merge(store: Store, sources: Sequence[Path]) -> Iterator[Merged]:
    """Copy what other stores have finished into `store`; yield what became of each.

    Args:
        store: Where all goes.
        sources: Folders of other stores.

    Raises:
        InputError: a source is no store, or `store` itself, or a supervisor holds `store`.
    """
    opened = [Store(path) for path in sources]
    for source in opened:
        if os.path.samefile(source.folder, store.folder):
            raise InputError(f"{source.folder} is the store that others are merged into.")
    with supervising(store):
        for left in store.folder.glob(f"{_COPY}*"):  # by one who was killed
            shutil.rmtree(left)
        for source in opened:
            yield _Merge(store, source).carry_out()


class _Merge:
    """Copies one store into another."""

    def __init__(self, store: Store, source: Store) -> None:
        self._store, self._source = store, source
        self._told = Merged(source.folder)
        self._names = {**_names(store), **_names(source)}
        self._became: dict[tuple[str, int], int] = {}  # (key, attempt there) -> attempt here

    def carry_out(self) -> Merged:
        """Copy trials, then the weights that they were scored with, then plans."""
        trials = self._source.folder / "trials"
        keys = sorted(path.name for path in trials.iterdir() if path.is_dir())
        holders = {key for key, _ in self._source.weights.holders()}
        for key in keys:
            self._bring_trial(key, holds_weights=key in holders)
        for path in sorted((self._source.folder / "trained").glob("*.json")):
            self._bring_weights(path.stem)
        for plan_id in self._source.plan_ids():
            self._bring_plan(plan_id)
        return self._told

    def _bring_trial(self, key: str, *, holds_weights: bool) -> None:
        theirs, mine = self._source.result(key), self._store.result(key)
        if mine is not None:
            if theirs is not None:
                self._compare(mine, theirs)
            return
        if self._bring(key, theirs, holds_weights=holds_weights):
            self._told.brought += 1
        else:
            self._told.unfinished += 1

    def _bring(self, key: str, theirs: TrialResult | None, *, holds_weights: bool) -> bool:
        """Copy what there is of a trial that the store has not finished; return whether it has."""
        if self._store.claims.newest(key):  # begun here
            return theirs is not None and self._copy_result(theirs)
        is_finished = theirs is not None or self._source.is_pruned(key)
        if is_finished or holds_weights:
            self._copy_whole(key)
        if theirs is not None:
            self._store.weights.note_scored(theirs.training_key, key)
        return is_finished

    def _compare(self, mine: TrialResult, theirs: TrialResult) -> None:
        if result_sha256(mine) == result_sha256(theirs):
            self._told.known += 1
        else:
            name = self._names.get(mine.key, "of no plan")
            self._told.unequal.append(f"{mine.key} ({name}): {_difference(mine, theirs)}")

    def _copy_whole(self, key: str) -> None:
        """Let the folder of a trial appear with one rename."""
        with tempfile.TemporaryDirectory(dir=self._store.folder, prefix=_COPY) as folder:
            copy = Path(folder) / key
            ignored = shutil.ignore_patterns(".*", "tmp", CHECKPOINT_FOLDER)
            shutil.copytree(self._source.trial_folder(key), copy, ignore=ignored)
            _sync(copy)
            target = self._store.trial_folder(key)
            if target.exists():  # empty, as of a worker that was about to claim it
                target.rmdir()
            os.rename(copy, target)
            sync_to_disk(target.parent)

    def _copy_result(self, theirs: TrialResult) -> bool:
        """Commit a result as that of a new attempt; return whether there was room for one."""
        attempt = self._copy_attempt(theirs.key, theirs.attempt)
        if attempt is None:
            return False
        return self._store.commit(dataclasses.replace(theirs, attempt=attempt))

    def _copy_attempt(self, key: str, attempt: int) -> int | None:
        """Copy an attempt as a new one of the store's own; None where somebody runs the trial."""
        newest = self._store.claims.newest(key)
        if self._store.claims.is_live(key, newest):
            return None
        owner = owner_of_this_process(worker_name())
        claim = self._store.claims.take(key, newest + 1, owner)
        if claim is None:
            return None
        try:
            source = self._source.attempt_folder(key, attempt)
            target = self._store.attempt_folder(key, claim.attempt)
            ignored = shutil.ignore_patterns(".*", *_NOT_COPIED)
            shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
            _sync(target)
            if (record := read_record(source)) is not None:
                write_record(target, dataclasses.replace(record, attempt=claim.attempt))
        finally:
            claim.release()
        self._became[key, attempt] = claim.attempt
        return claim.attempt

    def _bring_weights(self, training_key: str) -> None:
        """Copy trained weights that are whole, and that the store has not."""
        theirs = self._source.weights.recorded(training_key)
        if theirs is None or self._store.weights.recorded(training_key) is not None:
            return
        here = self._became.get((theirs.key, theirs.attempt), theirs.attempt)
        if not self._record(theirs, here):
            copied = self._copy_attempt(theirs.key, theirs.attempt)
            if copied is not None:
                self._record(theirs, copied)

    def _record(self, theirs: Trained, attempt: int) -> bool:
        """Record weights where an attempt has their files, whole; return whether it has."""
        trained = dataclasses.replace(theirs, attempt=attempt)
        return self._store.weights.adopt(trained) is not None

    def _bring_plan(self, plan_id: str) -> None:
        name = f"plans/{plan_id}.json"
        text = (self._source.folder / name).read_text(encoding="utf-8")
        path = self._store.folder / name
        if not link_whole(path, text) and json.loads(path.read_text()) != json.loads(text):
            self._told.other_plans.append(plan_id)


def _names(store: Store) -> dict[str, str]:
    """Return what trials are called, by key."""
    return {
        trial.key: f"{plan_id}, {trial.variant}, seed {trial.seed}"
        for plan_id in store.plan_ids()
        for trial in store.plan(plan_id).trials
    }


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync_to_disk(path)


def _difference(mine: TrialResult, theirs: TrialResult) -> str:
    """Say in what two results of one trial differ: what made them, or else what they measured."""
    made = sorted({*_made_otherwise(mine.provenance, theirs.provenance)})
    if made:
        return f"made otherwise ({_few(made)})"
    names = sorted(mine.metrics.keys() | theirs.metrics.keys())
    values = ((name, mine.metrics.get(name), theirs.metrics.get(name)) for name in names)
    changed = [
        f"{name} {here} here, {there} there" for name, here, there in values if here != there
    ]
    return _few(changed) if changed else "other predictions with equal scores"


def _made_otherwise(mine: Mapping[str, Json], theirs: Mapping[str, Json]) -> Iterator[str]:
    """Yield the fields of two provenances that differ, the innermost by name."""
    for name in mine.keys() | theirs.keys():
        here, there = mine.get(name), theirs.get(name)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            yield from _made_otherwise(here, there)
        elif here != there:
            yield name


def _few(words: Sequence[str]) -> str:
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more
