"""Taking a trained adapter out of the store."""

from __future__ import annotations

import json
import shutil
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
    if store.result(trial.key) is None or trained is None:
        raise InputError(f"{variant}, seed {seed}, has no result yet; run {plan.study} first.")
    target = target or Path(f"{plan.study}-{variant}-seed{seed}")
    if target.exists():
        raise InputError(f"{target} exists; name another folder with --out.")
    shutil.copytree(store.weights.adapter_folder(trained), target)
    _set_threshold(target / "adapter_config.json", trial)
    return target


def _set_threshold(path: Path, trial: Trial) -> None:
    """Let an exported adapter skip what its row skips: training may have seen no threshold."""
    config = json.loads(path.read_text())
    config["gate_threshold"] = trial.config["adapter"]["gate_threshold"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
