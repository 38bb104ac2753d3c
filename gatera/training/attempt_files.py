"""The files of one attempt, by name, and on disk, for those who do without torch."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

METRICS_FILE = "metrics.jsonl"
ANSWERS_FILE = "answers.jsonl"
PREDICTIONS_FILE = "predictions.parquet"
ADAPTER_FOLDER = "adapter"
CHECKPOINT_FOLDER = "checkpoints"

# Steps done, and the first digits of the SHA-256 of the file's bytes.
_CHECKPOINT = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.pt")


def checkpoint_name(step: int, sha256: str) -> str:
    """Return the name of a checkpoint after `step` steps whose bytes have the hash `sha256`."""
    return f"step-{step:08d}-{sha256[:16]}.pt"


def checkpoints(folder: Path) -> list[tuple[int, str, Path]]:
    """Return (steps, hash, path) of each checkpoint in `folder`, by steps.

    The hash is what the file's name says of its bytes: the first 16 hex digits of their SHA-256.
    """
    if not folder.is_dir():
        return []
    named = ((_CHECKPOINT.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), match[2], path) for match, path in named if match)


def checkpointed_steps(attempt_folder: Path) -> int:
    """Return the steps of an attempt's newest checkpoint, 0 where it has none."""
    return max((step for step, _, _ in checkpoints(attempt_folder / CHECKPOINT_FOLDER)), default=0)


def sha256_or_none(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes, in hex; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def sync_to_disk(path: Path) -> None:
    """Return when a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
