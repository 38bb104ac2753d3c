"""What training and scoring both begin with: libraries made quiet, data checked, the backbone."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import resource
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from gatera import backbones, tasks
from gatera.backbones import Backbone
from gatera.errors import InputError
from gatera.tasks.prompts import template_identity
from gatera.training.attempt_files import sha256_or_none
from gatera.training.provenance import machine
from gatera.trial import Trial


def quieten_libraries() -> None:
    """Leave progress to our own log: libraries' bars and advice drown it."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*GPU available but not used.*"):
        warnings.filterwarnings("ignore", message)


def check_identities(trial: Trial, data_root: Path | None, splits: tuple[str, ...]) -> None:
    """Refuse to file a result under a key that other data or another backbone determined.

    Args:
        trial: What was planned.
        data_root: Root of the real data sets.
        splits: Which of the planned files are looked at: "train", "test" or both.

    Raises:
        InputError: what is here is not what the trial was planned with.
    """
    planned = dict(trial.identities)
    planned["data"] = _of_splits(planned.get("data", {}), splits)
    found = {
        "backbone": backbones.identity(trial.config["backbone"]["name"]),
        "template": template_identity(trial.config["data"]["template"]),
        "data": {
            task: {split: tasks.fingerprint(task, split, data_root) for split in named}
            for task, named in planned["data"].items()
        },
    }
    if trial.sources:
        found["sources"] = {
            name: sha256_or_none(Path(path)) for name, path in trial.sources.items()
        }
    changed = [name for name in found if name in planned and planned[name] != found[name]]
    if changed:
        raise InputError(
            f"the trial was planned with another {' and '.join(changed)} than this machine has "
            f"(planned {[planned[name] for name in changed]}, found "
            f"{[found[name] for name in changed]}); plan it again with what is here, or restore "
            "what it was planned with."
        )


def _of_splits(data: Mapping[str, Any], splits: tuple[str, ...]) -> dict[str, Any]:
    kept = {
        task: {split: sha256 for split, sha256 in named.items() if split in splits}
        for task, named in data.items()
    }
    return {task: named for task, named in kept.items() if named}


def device_in_use() -> torch.device:
    """Return the accelerator, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_backbone(trial: Trial) -> Backbone:
    """Return a trial's frozen model, on the device in use, with its tokenizer."""
    gc.collect()  # a trainer's cycles may hold the model before this one
    backbone, dtype = trial.config["backbone"], trial.config["train"]["dtype"]
    quantization = backbone.get("quantization", "none")
    loaded = backbones.load(backbone["name"], dtype, quantization)
    if quantization != "none":  # it is there already, and may not be moved
        return loaded
    return Backbone(loaded.model.to(device_in_use()), loaded.tokenizer)


def of_process(trial: Trial, code: Mapping[str, str]) -> dict[str, Any]:
    """Return what this process computes a trial by."""
    found = machine.of_process(code)
    if trial.config["backbone"].get("quantization", "none") != "none":
        found["bitsandbytes"] = importlib.metadata.version("bitsandbytes")
    return found


def longest_prompt(model: Any, max_new_tokens: int) -> int | None:
    """Return the tokens that a prompt with its response may have; None where there is no limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return None if positions is None else int(positions) - max_new_tokens


def peak_memory_bytes() -> int:
    """Return the most memory used: of the accelerator, else of this process."""
    device = device_in_use()
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
