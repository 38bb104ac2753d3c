"""Taking a trained adapter out of the store, or referring to it there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.planning.plan import Plan
from gatera.studies.store.store import Store
from gatera.studies.study import FROZEN
from gatera.trial import Trial


def export_adapter(store: Store, plan: Plan, variant: str, seed: int, target: Path | None) -> Path:
    """Copy the adapter of one trial to `target`, as PEFT saved it; return the folder.

    Raises:
        InputError: there is no such trial, it has no result, it has no adapter, or `target`
            exists.
    """
    trial = next((t for t in plan.trials if (t.variant, t.seed) == (variant, seed)), None)
    if trial is None:
        known = ", ".join(f"{t.variant} {t.seed}" for t in plan.trials if t.variant != FROZEN)
        raise InputError(f"{plan.id} has no trial {variant} {seed}; it has {known}.")
    if trial.is_frozen:
        raise InputError(f"{variant} is the untrained backbone and has no adapter.")
    trained = store.weights.recorded(trial.training_key)
    if store.result(trial.key) is None:
        raise InputError(f"{variant}, seed {seed}, has no result yet; run {plan.study} first.")
    if trained is None:
        raise InputError(
            f"the adapter of {variant}, seed {seed}, was not kept; its result was. Move "
            f"{store.trial_folder(trial.key)} away and run {plan.study} again to train it anew."
        )
    target = target or Path(f"{plan.study}-{variant}-seed{seed}")
    if target.exists():
        raise InputError(f"{target} exists; name another folder with --out.")
    _take(store.weights.adapter_folder(trained), trial, target, shutil.copy2)
    return target


def refer_to_adapter(source: Path, trial: Trial, target: Path) -> None:
    """Make `target` a folder with the adapter of a trial: links to the files of `source`.

    A file of its own has the settings alone, and only where the row skips what training did not.

    Raises:
        OSError: `target` lies on another file system, or cannot be written.
    """
    if target.exists():
        return
    unfinished = target.with_name(f".{target.name}")  # of one who was killed, perhaps
    shutil.rmtree(unfinished, ignore_errors=True)
    _take(source, trial, unfinished, os.link)
    unfinished.rename(target)


def _take(source: Path, trial: Trial, target: Path, copy: Callable[[str, str], object]) -> None:
    shutil.copytree(source, target, copy_function=copy)
    _set_threshold(target / "adapter_config.json", trial)


def _set_threshold(path: Path, trial: Trial) -> None:
    """Let an adapter skip what its row skips: training may have seen no threshold."""
    threshold = trial.config["adapter"].get("gate_threshold")
    if threshold is None or not path.exists():
        return
    config = json.loads(path.read_text())
    if config.get("gate_threshold") != threshold:
        path.unlink()  # where it is a link, the store's own file stays as it is
        path.write_text(
            json.dumps({**config, "gate_threshold": threshold}, indent=2, sort_keys=True)
        )
