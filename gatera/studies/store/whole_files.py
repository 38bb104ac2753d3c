"""Files that appear whole or not at all, and are read without trusting them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from gatera.training.attempt_files import sync_to_disk
from gatera.trial import Json

Signature = tuple[int, int, int]  # inode, size, time of the last change in nanoseconds


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that it appears whole, in place of what was there."""
    temporary = _write_temporary(path, text)
    os.replace(temporary, path)
    sync_to_disk(path.parent)


def link_whole(path: Path, text: str) -> bool:
    """Write `text` to `path` so that it appears whole, once; False where `path` exists."""
    temporary = _write_temporary(path, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    sync_to_disk(path.parent)
    return True


def read_json(path: Path) -> Json:
    """Return what `path` holds; None where it is missing or unreadable."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def signature(path: Path | str) -> Signature | None:
    """Return what changes when a file does; None where it is missing.

    Its times are compared for equality alone, so that a clock that jumps does no harm.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _write_temporary(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def set_aside(path: Path) -> Path:
    """Move a damaged file beside its place; return where it is now."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    os.replace(path, target)
    return target
