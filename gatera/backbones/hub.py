"""Any causal language model from the hub, or from a folder that `save_pretrained` wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from gatera.errors import InputError

# What decides the outputs of a saved model: its configuration, weights and tokenizer files.
_DECISIVE_SUFFIXES = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}


def split_revision(hub_id: str) -> tuple[str, str]:
    """Return (repository, revision) of `repository` or `repository@revision`."""
    repository, _, revision = hub_id.partition("@")
    return repository, revision or "main"


def identity(hub_id: str) -> dict[str, str]:
    """Return the repository and the revision, or the hash of a local folder's files."""
    folder = Path(hub_id)
    if folder.is_dir():
        return {"folder_sha256": _folder_sha256(folder)}
    repository, revision = split_revision(hub_id)
    return {"hub": repository, "revision": revision}


def load(hub_id: str, dtype: str, quantization: str = "none") -> tuple[Any, Any]:
    """Return model and tokenizer of a hub id, `id@revision` or a local folder.

    Raises:
        InputError: the hub is out of reach, or the repository is gated or does not exist.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gatera.backbones.precision import loading

    repository, revision = _location(hub_id)
    options = loading(dtype, quantization)
    try:
        tokenizer = AutoTokenizer.from_pretrained(repository, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(repository, revision=revision, **options)
    except (OSError, ValueError) as error:
        raise _unavailable(hub_id, error) from error
    return model, tokenizer


def configuration(hub_id: str) -> Any:
    """Return the model configuration of a hub id, `id@revision` or a local folder.

    Raises:
        InputError: as `load`.
    """
    from transformers import AutoConfig

    repository, revision = _location(hub_id)
    try:
        return AutoConfig.from_pretrained(repository, revision=revision)
    except (OSError, ValueError) as error:
        raise _unavailable(hub_id, error) from error


def _location(hub_id: str) -> tuple[str, str]:
    return (hub_id, "main") if Path(hub_id).is_dir() else split_revision(hub_id)


def _unavailable(hub_id: str, error: Exception) -> InputError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"the backbone {hub_id} could not be loaded: {reason[0]} If this machine is offline, copy "
        "the model to a folder and name it as hub:/path/to/folder; if the model is gated, accept "
        "its licence on the hub and set HF_TOKEN."
    )


def _folder_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _DECISIVE_SUFFIXES and path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
