"""Starting workers on some engine: the smallest interface that works.

The truth is the store. An engine starts processes, says which of them live, and stops them; what
they did is read from the store, never from the engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


class Launcher(Protocol):
    """What the supervisor needs of an engine."""

    name: str  # of the engine and of where it runs: ids mean something under this name alone

    def start(self, count: int, command: list[str], gpus: int, cpus: int) -> list[str]:
        """Start `count` workers with `gpus` and `cpus` each; return their ids."""
        ...

    def known(self) -> set[str]:
        """Return the ids of this store's workers that the engine itself keeps a list of."""
        ...

    def alive(self, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that still run."""
        ...

    def stop(self, ids: Collection[str], *, at_once: bool = False) -> None:
        """End the workers with these ids, and all that were started here and never told of.

        Returns when they are gone, or after a while; `at_once`: nobody waits for them to save.
        """
        ...


@dataclass(frozen=True)
class Slots:
    """How many workers run at a time, and what each has."""

    workers: int
    gpus: int = 0
    threads: int = 1  # a function of the options alone: threads change the last bits of a result
