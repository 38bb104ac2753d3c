"""Which GPUs this process may use, without starting CUDA in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_DEVICE_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, of AMD, of Windows' Linux


def visible_gpus() -> list[str]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        return []
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(index) for index in range(count)]


def may_use_gpu() -> bool:
    """Whether torch may find a GPU here, also one that nvidia-smi is not there to list."""
    if visible_gpus():
        return True
    hidden = "CUDA_VISIBLE_DEVICES" in os.environ
    return not hidden and any(Path(file).exists() for file in _DEVICE_FILES)


def name_of_first() -> str | None:
    """Return the model of the first GPU that this process may use; None where nobody says."""
    if not (devices := visible_gpus()) or shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", f"--id={devices[0]}"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None if asked.returncode == 0 else None
