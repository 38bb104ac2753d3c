"""Claims whose holder may hang: their progress, watched on the observer's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import signature
from gatera.training.attempt_files import METRICS_FILE

LOOK_SECONDS = 1.0  # between two looks at the same claims
# Seconds between two looks that count, and their share of the time-out: in a longer gap we stood
# still ourselves.
_LONGEST_GAP, _GAP_SHARE = 5.0, 0.25


@dataclass
class _Watched:
    attempt: int
    progress: tuple[object, ...]
    since: float  # on the watch's clock


class StallWatch:
    """Tells which live claims made no progress for too long, by what this process saw.

    Nobody else's clock is asked, and time in which this process was itself stopped does not count.
    """

    def __init__(
        self, store: Store, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Call a claim stalled after `timeout` seconds of `clock` without progress."""
        self._store, self._timeout, self._clock = store, timeout, clock
        self._longest_gap = min(_LONGEST_GAP, _GAP_SHARE * timeout)
        self._watched: dict[str, _Watched] = {}  # by key
        self._looked_at: float | None = None
        self._now = 0.0

    def stalled(self, keys: Iterable[str]) -> list[tuple[str, int]]:
        """Return (key, attempt) of each stalled claim; looks at most once in LOOK_SECONDS."""
        now = self._clock()
        if self._looked_at is not None:
            passed = now - self._looked_at
            if 0 <= passed < LOOK_SECONDS:
                return []
            self._now += min(max(0.0, passed), self._longest_gap)
        self._looked_at = now
        return [found for key in keys if (found := self._look(key)) is not None]

    def _look(self, key: str) -> tuple[str, int] | None:
        attempt = self._store.claims.newest(key)
        if self._store.has_result(key) or not self._store.claims.is_live(key, attempt):
            self._watched.pop(key, None)
            return None
        folder = self._store.attempt_folder(key, attempt)
        progress = tuple(signature(folder / name) for name in (METRICS_FILE, "log"))
        seen = self._watched.get(key)
        if seen is None or (seen.attempt, seen.progress) != (attempt, progress):
            self._watched[key] = _Watched(attempt, progress, self._now)
            return None
        return (key, attempt) if self._now - seen.since >= self._timeout else None
