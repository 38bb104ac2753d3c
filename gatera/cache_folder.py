"""The folder for what can be made again: converted weights, tokenized data, an empty database."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock

CACHE_VARIABLE = "GATERA_CACHE"


def cache_folder() -> Path:
    """Return GATERA_CACHE, else `gatera` under XDG_CACHE_HOME, else under ~/.cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gatera"


def locked(path: Path) -> FileLock:
    """Return a lock on `path` (made if missing) against other processes; freed when one dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)
