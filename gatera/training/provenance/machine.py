"""What a result was computed by: code, library versions, host. Loads no torch."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatera.errors import InputError
from gatera.training.provenance import gpus

_PACKAGE = Path(__file__).resolve().parents[2]

_LIMITING_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
_LIBRARIES = ("torch", "transformers", "peft", "pytorch-lightning", "numpy", "gatera")


def of_process(files: Mapping[str, str]) -> dict[str, Any]:
    """Return what this process computes by, which has torch loaded.

    Args:
        files: The code that decides what it computes: file -> hash of its syntax tree.
    """
    import torch

    commit, dirty = source_state()
    return {
        "code": dict(files),
        "versions": versions(),
        **_processor_of_torch(),
        "threads": torch.get_num_threads(),
        "commit": commit,
        "dirty": dirty,
    }


def _processor_of_torch() -> dict[str, str | None]:
    import torch

    if torch.cuda.is_available():
        return {"device": "cuda", "processor": torch.cuda.get_device_name()}
    return {"device": "cpu", "processor": cpu_capability()}


@dataclass(frozen=True)
class Machine:
    """What a machine computes by, asked without torch; results of unlike machines are not mixed."""

    versions: Mapping[str, str]
    device: str  # cuda or cpu
    processor: str | None  # the GPU's name, or what the CPU can do; None where nobody says

    @classmethod
    def here(cls) -> Machine:
        """Return this machine.

        Raises:
            InputError: a package is missing.
        """
        if gpus.may_use_gpu():
            return cls(versions(), "cuda", gpus.name_of_first())
        return cls(versions(), "cpu", cpu_capability())

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return what is otherwise on another machine, each as `name there → here`."""
        before = other.get("versions") or {}
        found = [
            f"{name} {before[name]} → {version}"
            for name, version in self.versions.items()
            if name in before and before[name] != version and name != "gatera"
        ]
        for name, here in (("device", self.device), ("processor", self.processor)):
            there = other.get(name)
            if there is not None and here is not None and there != here:
                found.append(f"{name} {there} → {here}")
        return found


def cpu_capability() -> str:
    """Return the widest instructions of the processor that arithmetic libraries choose by.

    One of AMX, AVX512, AVX2 and the machine's own name, with what the environment forbids of them.
    """
    try:
        flags = set(
            re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[0].split()
        )
    except (OSError, IndexError):
        flags = set()
    known = {"AMX": "amx_tile", "AVX512": "avx512f", "AVX2": "avx2"}
    found = next((name for name, flag in known.items() if flag in flags), platform.machine())
    limits = [f"{n}={os.environ[n]}" for n in _LIMITING_VARIABLES if n in os.environ]
    return " ".join([found, *limits])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a result.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        found = {name: _version(name) for name in _LIBRARIES}
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"the package {error.name} is missing on this machine; install gatera with all that it "
            "needs: pip install -c constraints.txt ."
        ) from None
    return {"python": platform.python_version(), **found}


@functools.cache
def _version(name: str) -> str:
    """Return a library's version, which reading takes milliseconds; its process keeps it."""
    return importlib.metadata.version(name)


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
