"""The folder for what can be made again: converted weights, tokenized data."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "GATERA_CACHE"


def cache_folder() -> Path:
    """Return GATERA_CACHE, else `gatera` under XDG_CACHE_HOME, else under ~/.cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gatera"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on `path` (made if missing) against other processes; freed when one dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
