"""Who may run a trial: claims, which are files that their owner holds locked while it lives.

trials/<key>/claim.<n>          attempt n's owner, locked while it lives
trials/<key>/claim.<n>.dead     why the claim counts no more, though its lock may be held
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from gatera.studies.store.locks import is_locked, try_lock
from gatera.studies.store.whole_files import link_whole, read_json
from gatera.trial import Json

_CLAIM = re.compile(r"claim\.(\d+)")


class Claim:
    """The right to run one attempt; lost when the process that holds it ends."""

    def __init__(self, key: str, attempt: int, descriptor: int) -> None:
        self.key = key
        self.attempt = attempt
        self._descriptor = descriptor

    def release(self) -> None:
        """Free the lock; the claim then counts as dead."""
        os.close(self._descriptor)


class Claims:
    """The claims of all trials of a store."""

    def __init__(self, trial_folder: Callable[[str], Path]) -> None:
        """Take what says where the files of the trial with a key lie."""
        self._trial_folder = trial_folder

    def take(self, key: str, attempt: int, owner: Json) -> Claim | None:
        """Make the claim of a new attempt; None where somebody else did.

        The file is locked before it appears under its name, so that no moment exists at which it
        looks dead.
        """
        folder = self._trial_folder(key)
        descriptor, temporary = tempfile.mkstemp(prefix=".claim-", dir=folder)
        try:
            os.write(descriptor, json.dumps(owner).encode())
            os.fchmod(descriptor, 0o644)
            locked = try_lock(descriptor)
            assert locked, "a file of our own is locked by somebody else"
            os.link(temporary, folder / f"claim.{attempt}")
        except FileExistsError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            os.unlink(temporary)
        return Claim(key, attempt, descriptor)

    def newest(self, key: str) -> int:
        """Return the number of the newest claim, 0 where there is none."""
        return max(self.attempts(key), default=0)

    def attempts(self, key: str) -> list[int]:
        """Return the numbers of all claims, ascending."""
        try:
            names = os.listdir(self._trial_folder(key))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(match[1]) for name in names if (match := _CLAIM.fullmatch(name)))

    def is_live(self, key: str, attempt: int) -> bool:
        """Return whether a claim is locked, and was not declared dead."""
        claim = self._trial_folder(key) / f"claim.{attempt}"
        return attempt > 0 and is_locked(claim) and not Path(f"{claim}.dead").exists()

    def is_held(self, key: str, attempt: int) -> bool:
        """Return whether a claim is locked, declared dead or not: its process may still write."""
        return is_locked(self._trial_folder(key) / f"claim.{attempt}")

    def hangs(self, key: str, attempt: int) -> bool:
        """Return whether a claim was declared dead and its process still holds the lock."""
        dead = self._trial_folder(key) / f"claim.{attempt}.dead"
        return dead.exists() and self.is_held(key, attempt)

    def declare_dead(self, key: str, attempt: int, reason: str) -> None:
        """Let a claim count no more, whoever holds its lock."""
        path = self._trial_folder(key) / f"claim.{attempt}.dead"
        link_whole(path, json.dumps({"reason": reason}) + "\n")

    def owner(self, key: str, attempt: int) -> Json:
        """Return what a claim says of its owner; None where it cannot be read."""
        return read_json(self._trial_folder(key) / f"claim.{attempt}")
