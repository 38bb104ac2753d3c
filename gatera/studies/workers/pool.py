"""The workers of a run: as many as are wanted, replaced when they die, stopped at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.launch import Launcher, Slots
from gatera.studies.store.snapshot import Snapshot
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import read_json, write_whole
from gatera.studies.workers.attempt import full_disk_error
from gatera.studies.workers.stalls import StallWatch
from gatera.trial import Trial

_GRACE_SECONDS = 5.0


class WorkerPool:
    """Keeps workers on one plan and tells the store which of their claims are dead.

    The ids of workers are kept in the store, by engine, so that a supervisor that was killed finds
    them again. Those of another engine or host are left alone: nobody here can say whether they
    live, and their locks and their progress tell.
    """

    def __init__(
        self,
        store: Store,
        plan_id: str,
        launcher: Launcher,
        slots: Slots,
        *,
        max_attempts: int | None,
        claim_timeout: float,
        allow_mixed: bool = False,
        keep: str = "all",
    ) -> None:
        """Take over the workers that the store or the engine knows; they run already."""
        self._store, self._launcher, self._slots = store, launcher, slots
        self._command = [sys.executable, "-m", "gatera.studies", "work", str(store.folder)]
        self._command += ["--plan", plan_id, "--claim-timeout", str(claim_timeout)]
        if max_attempts is not None:
            self._command += ["--max-attempts", str(max_attempts)]
        if allow_mixed:
            self._command.append("--allow-mixed")
        if keep != "all":
            self._command += ["--keep", keep]
        # Workers see a hanging trial first, and end one of their own.
        self._watch = StallWatch(store, claim_timeout + _GRACE_SECONDS)
        self._timeout = claim_timeout
        self._path = store.folder / "workers.json"
        noted = self._all_ids().get(launcher.name, [])
        self._ids: list[str] = [*noted, *sorted(launcher.known() - set(noted))]
        self._alive = launcher.alive(self._ids)
        self._claims = 0  # made in the plan when workers were last started
        self._fruitless = 0  # workers started since a claim was last made
        self._full_before: set[tuple[str, int]] | None = None

    def look(self) -> None:
        """Ask the launcher who is alive; to be done before the trials are looked at.

        A worker that ended then left nothing to run that the look does not show.
        """
        self._alive = self._launcher.alive(self._ids)

    def tend(self, snapshot: Snapshot) -> None:
        """Give up the claims of dead and hanging workers, and start workers where some are missing.

        Raises:
            OSError: the disk is full.
            InputError: workers end again and again before they take a trial.
        """
        self._raise_where_the_disk_is_full(snapshot)
        statuses = snapshot.statuses
        hanging = self._declare_dead([t for t in snapshot.unfinished if statuses[t.key].attempt])
        wanted = min(self._slots.workers, len(snapshot.unfinished))
        if (missing := wanted - len(self._alive - hanging)) > 0:
            self._start(missing, sum(status.attempt for status in statuses.values()))

    def stop(self, at_once: bool = False) -> None:
        """End all workers; `at_once`: nobody waits for them to save."""
        self._launcher.stop(self._ids, at_once=at_once)

    def _declare_dead(self, trials: list[Trial]) -> set[str]:
        """Declare claims dead whose worker is gone or hangs; return the workers that hang."""
        hanging = set()
        stalled = set(self._watch.stalled(trial.key for trial in trials))
        for key in (trial.key for trial in trials):
            attempt = self._store.claims.newest(key)
            worker = (self._store.claims.owner(key, attempt) or {}).get("worker")
            if self._store.claims.is_live(key, attempt):
                if worker in self._ids and worker not in self._alive:
                    self._store.claims.declare_dead(key, attempt, f"its worker {worker} is gone")
                elif (key, attempt) in stalled:
                    self._store.claims.declare_dead(
                        key, attempt, f"no progress for {self._timeout:g} s"
                    )
            if worker and self._store.claims.hangs(key, attempt):
                hanging.add(worker)
        return hanging

    def _start(self, count: int, claims: int) -> None:
        self._fruitless = 0 if claims > self._claims else self._fruitless
        if self._fruitless > 2 * self._slots.workers + 2:
            log = self._store.folder / "logs" / "workers.log"
            raise InputError(
                f"workers end before they take a trial ({_last_line(log)}); see {log.parent}."
            )
        self._claims, self._fruitless = claims, self._fruitless + count
        started = self._launcher.start(count, self._command, self._slots.gpus, self._slots.threads)
        self._ids = [*self._ids, *started]
        self._alive |= set(started)
        known = self._all_ids() | {self._launcher.name: self._ids}
        write_whole(self._path, json.dumps(known) + "\n")

    def _all_ids(self) -> dict[str, list[str]]:
        """Return the ids of all workers that this store had, by engine."""
        found = read_json(self._path)
        return found if isinstance(found, dict) else {}

    def _raise_where_the_disk_is_full(self, snapshot: Snapshot) -> None:
        """Raise where an attempt, since we began, ended because there was no room."""
        found = set()
        for trial in snapshot.unfinished:
            attempt = snapshot.statuses[trial.key].attempt
            record = self._store.record(trial.key, attempt) if attempt else None
            if record is not None and record.ended == "no_space":
                found.add((trial.key, attempt))
        if self._full_before is None:
            self._full_before = found
        if found - self._full_before:
            raise full_disk_error(self._store.folder)


def _last_line(log: Path) -> str:
    try:
        return (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
    except FileNotFoundError:
        return "no message"
