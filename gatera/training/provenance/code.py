"""Which code a trial's result depends on: files of this package, each with the hash of its tree.

Found in the source, from where training and scoring begin. Loads no torch.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gatera.training.provenance.package import Package
from gatera.training.provenance.syntax import tree_sha256

__all__ = [
    "answering_code",
    "changed_files",
    "files_sha256",
    "read_sources",
    "scoring_code",
    "training_code",
    "tree_sha256",
]

_PACKAGE = Path(__file__).resolve().parents[2]

_TRAINING_ROOTS = ("gatera.training.optimization.trainer",)
_SCORING_ROOTS = ("gatera.training.evaluation.scorer",)
_ANSWERING_ROOTS = ("gatera.training.evaluation.scoring", "gatera.training.adapting")


def training_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that training a trial loads: path -> hash of its tree.

    Of the tasks, those that are trained on count. None for the frozen backbone, which nothing
    trains.

    Args:
        config: A resolved configuration: backbone, adapter, train, eval, data.
    """
    if config["adapter"]["method"] == "frozen":
        return {}
    return _files(config, _TRAINING_ROOTS, "train_tasks")


def scoring_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that scoring a trial loads, as `training_code` does.

    Of the tasks, those that are scored count.
    """
    return _files(config, _SCORING_ROOTS, "tasks")


def answering_code(config: Mapping[str, Any], task: str) -> dict[str, str]:
    """Return the files that answering the items of one task loads, as `training_code` does."""
    data = {**config["data"], "tasks": [task]}
    package = _package()
    return package.files(_ANSWERING_ROOTS, package.names({**config, "data": data}, [task], None))


def files_sha256(files: Mapping[str, str]) -> str:
    """Return one hash of what all files hold, in hex; where they lie counts for nothing."""
    return hashlib.sha256("\n".join(sorted(files.values())).encode()).hexdigest()


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the files that differ, that appeared and that went, sorted; none that only moved."""
    if before == now:  # as of nearly all
        return []
    then, today = Counter(before.values()), Counter(now.values())
    went, came = then - today, today - then
    gone = {path for path, digest in before.items() if digest in went}
    return sorted(gone | {path for path, digest in now.items() if digest in came})


def read_sources() -> None:
    """Read the package's source, once: from now on, answers are about the code as it is now.

    For a process that loads the code and computes with it, whatever happens to the files since,
    and for its forks, which find the hashes made.
    """
    _package().prepare()


@functools.cache
def _package() -> Package:
    return Package(_PACKAGE)


def _files(config: Mapping[str, Any], roots: Sequence[str], field: str) -> dict[str, str]:
    return dict(_package().files_of(config, tuple(roots), field))
