"""Taking a trained adapter out of the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.plan import Plan
from gatera.studies.spec import FROZEN
from gatera.studies.store import Store


def export_adapter(store: Store, plan: Plan, variant: str, seed: int, target: Path | None) -> Path:
    """Copy the adapter of one trial to `target`, as PEFT saved it; return the folder.

    Raises:
        InputError: there is no such trial, it has no result, it has no adapter, or `target`
            exists.
    """
    trial = next((t for t in plan.trials if (t.variant, t.seed) == (variant, seed)), None)
    if trial is None:
        known = ", ".join(f"{t.variant} {t.seed}" for t in plan.trials if t.variant != FROZEN)
        raise InputError(f"{plan.stem} has no trial {variant} {seed}; it has {known}.")
    if variant == FROZEN:
        raise InputError(f"{FROZEN} is the untrained backbone and has no adapter.")
    result = store.result(trial.key)
    if result is None:
        raise InputError(f"{variant}, seed {seed}, has no result yet; run {plan.study} first.")
    target = target or Path(f"{plan.study}-{variant}-seed{seed}")
    if target.exists():
        raise InputError(f"{target} exists; name another folder with --out.")
    shutil.copytree(store.attempt_folder(trial.key, result.attempt) / "adapter", target)
    return target
