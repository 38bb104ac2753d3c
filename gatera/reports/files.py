"""What a report's files are called."""

from __future__ import annotations

from pathlib import Path


def gate_files(folder: Path, plan_id: str) -> list[Path]:
    """Return the files in `folder` that say what a plan's gates do, the text first."""
    found = (*folder.glob(f"{plan_id}.gates.*"), *folder.glob(f"figures/{plan_id}.gates_*.png"))
    return sorted(found, key=lambda path: (path.suffix != ".md", path))
