"""Items that lie in files under a data root, or else on the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gatera.errors import InputError
from gatera.tasks.example import Example, content_hash
from gatera.tasks.task import SPLITS
from gatera.trial import sha256_of

DATA_ROOT_VARIABLE = "GATERA_DATA_ROOT"

HELD_OUT = 120  # items of a training file that form its validation split


class Hub(Protocol):
    """What stands in for the files where no data root is given."""

    def load(self, task: str, split: str) -> list[Example]:
        """Return the items of `task` that a split, of "train" and "test", is made of.

        Raises:
            InputError: the hub cannot be reached, or what fetches from it is missing.
        """
        ...


@dataclass(frozen=True)
class Files:
    """Splits that are files. Where validation has none, the training file holds items out.

    Held out are the first `HELD_OUT` in the order of their hash.
    """

    task: str  # for messages, and for the hub
    paths: Mapping[str, str]  # split -> file below the data root
    read: Callable[[Path], list[Example]]  # raises InputError, naming file and record
    form: str  # what such a file is, for messages
    hub: Hub | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Those with a file; validation too, where there is something to hold out."""
        can_hold_out = "train" in self.paths
        return tuple(s for s in SPLITS if s in self.paths or (s == "validation" and can_hold_out))

    def load(self, split: str, root: Path | None) -> list[Example]:
        """Read a split.

        Raises:
            InputError: the file is missing, or a record in it is malformed.
        """
        root, source = data_root(root), self._source(split)
        if root is not None:
            examples = self.read(self.existing_path(split, root))
        elif self.hub is not None:
            examples = self.hub.load(self.task, source)
        else:
            raise InputError(
                f"task {self.task}: no data root was given (--data-root or GATERA_DATA_ROOT); its "
                f"{split} split is the file {self.paths[source]} below one ({self.form})."
            )
        return select_split(examples, split) if self._holds_out(split) else examples

    def fingerprint(self, split: str, root: Path | None) -> str:
        """Return the SHA-256 of the file that `load` reads, or of what the hub gives, in hex.

        Raises:
            InputError: it is missing.
        """
        if (root := data_root(root)) is not None:
            return hashlib.sha256(self.existing_path(split, root).read_bytes()).hexdigest()
        return examples_sha256(self.load(split, root))

    def existing_path(self, split: str, root: Path) -> Path:
        """Return the file that holds a split under a data root.

        Raises:
            InputError: there is no such file.
        """
        path = root / self.paths[self._source(split)]
        if not path.is_file():
            raise InputError(
                f"task {self.task}: its {split} split was looked for at {path}, which does not "
                f"exist; put the file there ({self.form}) or give another data root."
            )
        return path

    def _source(self, split: str) -> str:
        return split if split in self.paths else "train"

    def _holds_out(self, split: str) -> bool:
        return split != "test" and "validation" not in self.paths


def data_root(root: Path | None) -> Path | None:
    """Return the data root in use: the one given, else that of the environment, else None.

    Raises:
        InputError: it is not a folder.
    """
    source = "--data-root"
    if root is None:
        named = os.environ.get(DATA_ROOT_VARIABLE)
        if not named:
            return None
        root, source = Path(named), DATA_ROOT_VARIABLE
    if not root.is_dir():
        raise InputError(
            f"the data root {root} (from {source}) is not a folder; give the one that holds "
            "commonsense/, gsm8k/ or another benchmark's folder."
        )
    return root


def examples_sha256(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of what items say, in hex."""
    return sha256_of([[e.instruction, e.input, e.output, e.answer] for e in examples])


def select_split(examples: list[Example], split: str) -> list[Example]:
    """Return the training or the validation part of a training file's records.

    Records that ask one question stay together, in the training part only if none is held out.
    """
    hashes = [content_hash(example) for example in examples]
    held_out = set(sorted(set(hashes))[:HELD_OUT])
    wanted = split == "validation"
    return [
        example
        for example, digest in zip(examples, hashes, strict=True)
        if (digest in held_out) is wanted
    ]
