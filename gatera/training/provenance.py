"""What a result was computed by: code, library versions, host. Loads no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent

# The parts of the package that decide what a trial measures, shipped weights included.
_DECISIVE_FOLDERS = ("adapter", "backbones", "tasks", "training")
_DECISIVE_FILES = ("trial.py",)

_LIBRARIES = ("torch", "transformers", "peft", "pytorch-lightning", "numpy", "gatera")


@functools.cache
def code_sha256() -> str:
    """Return the SHA-256 of all files that decide a result, by path and content, in hex."""
    digest = hashlib.sha256()
    for path in _decisive_files():
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _decisive_files() -> list[Path]:
    found = [_PACKAGE / name for name in _DECISIVE_FILES]
    for folder in _DECISIVE_FOLDERS:
        found += [
            path
            for path in (_PACKAGE / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
        ]
    return sorted(found)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a result."""
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **found}


def source_state() -> tuple[str | None, bool | None]:
    """Return (commit, whether files differ from it) of gatera's own checkout.

    Both are None where the package does not run from a checkout, or git is not there.
    """
    checkout = _PACKAGE.parent
    if not (checkout / ".git").exists():
        return None, None
    commit = _git(checkout, "rev-parse", "HEAD")
    changes = _git(checkout, "status", "--porcelain", "--", "gatera", "studies")
    if commit is None or changes is None:
        return None, None
    return commit, bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def host() -> str:
    """Return the name of this machine."""
    return platform.node()
