"""What `plan` says of each trial: where it stands, why, and what it would take to finish it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gatera.errors import InputError
from gatera.studies.planning.confounds import differing_fields
from gatera.studies.planning.plan import Plan
from gatera.studies.store.snapshot import Snapshot
from gatera.studies.store.staleness import changed_training
from gatera.studies.store.store import Store
from gatera.training.provenance.machine import Machine
from gatera.trial import Json, Trial, TrialResult

TRAIN_AND_SCORE, SCORE_ONLY = "train and score", "score only"


def trial_outlook(store: Store | None, plan: Plan, snapshot: Snapshot | None) -> list[Json]:
    """Return {key, training_key, variant, seed, state, work, reason} of each trial.

    `work` is what is left to do: null of a trial that is done, runs, or is left alone. A key is
    null where data that it rests on are missing.
    """
    before = _stored_trials(store, plan)
    here = Machine.here() if store is not None else None
    planned: set[str] = set()  # training keys that an earlier trial of the plan will have trained
    rows: list[Json] = []
    for trial in plan.trials:
        status = snapshot.statuses[trial.key] if snapshot is not None else None
        state = status.state if status is not None else "waiting"
        result = store.result(trial.key) if store is not None else None
        work = _work(store, trial, result, planned) if state in ("waiting", "stale") else None
        reason = status.reason if status is not None else None
        if state == "done" and store is not None and result is not None and here is not None:
            reason = _not_mixed(here, store, result)
        if state == "waiting" and store is not None:
            reason = store.damage(trial.key) or _new_key(store, before, trial)
        planned.add(trial.training_key)
        rows.append(
            {
                "key": trial.key if _has_its_data(trial) else None,
                "training_key": (
                    trial.training_key if trial.is_frozen or _has_its_data(trial) else None
                ),
                "variant": trial.variant,
                "seed": trial.seed,
                "state": state,
                "work": work,
                "reason": reason,
            }
        )
    return rows


def _has_its_data(trial: Trial) -> bool:
    files = (sha256 for splits in trial.identities["data"].values() for sha256 in splits.values())
    return None not in files and trial.identities.get("items", "") is not None


def _stored_trials(store: Store | None, plan: Plan) -> dict[tuple[str, int], Trial]:
    """Return the trials of the plan as `run` stored it last, by row and seed."""
    if store is None or plan.id not in store.plan_ids():
        return {}
    try:
        return {(t.variant, t.seed): t for t in store.plan(plan.id).trials}
    except InputError:  # it will be written anew
        return {}


def _work(store: Store | None, trial: Trial, result: TrialResult | None, planned: set[str]) -> str:
    if trial.is_frozen or trial.training_key in planned:
        return SCORE_ONLY
    if store is None or store.weights.of(trial) is None:
        return TRAIN_AND_SCORE
    stale = result is not None and changed_training(trial, result)
    return TRAIN_AND_SCORE if stale else SCORE_ONLY


def _not_mixed(here: Machine, store: Store, result: TrialResult) -> str | None:
    """Return what makes a result another machine's than ours; None where nothing does."""
    attempts = [(result.key, result.attempt)]
    if (trained := store.weights.recorded(result.training_key)) is not None:
        attempts.append((trained.key, trained.attempt))
    found = [x for each in attempts for x in here.differences(store.machine(*each) or {})]
    return f"not mixed: {', '.join(dict.fromkeys(found))}" if found else None


def _new_key(store: Store, before: Mapping[tuple[str, int], Trial], trial: Trial) -> str | None:
    """Return what made a trial another than the finished one in its place; None where none is."""
    old = before.get((trial.variant, trial.seed))
    if old is None or old.key == trial.key or store.result(old.key) is None:
        return None
    return f"new key: {', '.join(_differences(old, trial)) or 'the settings changed'}"


def _differences(old: Trial, new: Trial) -> Iterator[str]:
    for name, (before, now) in differing_fields(new.config, old.config).items():
        yield f"{name} {before} → {now}"
    for name in ("backbone", "template"):
        if old.identities.get(name) != new.identities.get(name):
            yield f"{name} changed"
    was, data = old.identities.get("data", {}), new.identities.get("data", {})
    for task in sorted(was.keys() & data.keys()):
        for split in sorted(was[task].keys() & data[task].keys()):
            if was[task][split] != data[task][split]:
                yield f"data file changed ({task}/{split})"
    sources, named = old.identities.get("sources", {}), new.identities.get("sources", {})
    yield from (f"{n} changed" for n in sorted(named) if sources.get(n) != named[n])
