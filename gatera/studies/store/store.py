"""The store: one folder that holds all that studies produced, and the only truth about it.

    format.json                     {"format": 2}
    index.jsonl, index.contents.jsonl  what was read of finished trials: see `index.py`
    plans/<plan id>.json               what each study consists of
    trials/<key>/claim.<n>          attempt n's owner, locked while it lives
    trials/<key>/claim.<n>.dead     why the claim counts no more, though its lock may be held
    trials/<key>/attempts/<n>/      metrics.jsonl, log, checkpoints, predictions, ended.json, ...
    trials/<key>/result.json        exists = finished; written once
    trained/, scored/               trained weights, by training key: see `weights.py`

Every file appears whole (temporary file, fsync, then link or rename), so that a reader never sees
half of one, and a process that dies at any moment leaves nothing that has to be repaired.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.planning.plan import Plan
from gatera.studies.store.attempts import (
    ATTEMPT_LIMITS,
    AttemptRecord,
    last_metrics,
    metrics,
    read_record,
    record_of,
    write_record,
)
from gatera.studies.store.claims import Claim, Claims
from gatera.studies.store.index import Entry, Index
from gatera.studies.store.results import CheckedResult, ResultReader, agree, result_text
from gatera.studies.store.weights import Weights
from gatera.studies.store.whole_files import (
    file_sha256,
    link_whole,
    read_json,
    signature,
    write_whole,
)
from gatera.training.attempt_files import PREDICTIONS_FILE, sync_to_disk
from gatera.trial import Json, Trial, TrialResult

FORMAT = 2


class Store:
    """One store folder.

    Raises:
        InputError: the folder belongs to another format, or is something else than a store.
    """

    def __init__(self, folder: Path, *, create: bool = False, verifies: bool = True) -> None:
        """Open the store in `folder`, or make it.

        Without `verifies` a finished trial's files are not compared byte by byte with what was read
        of them before, as long as their sizes and times are the same.
        """
        self.folder = folder.absolute()
        self.index = Index(self.folder / "index.jsonl")
        self._reader = ResultReader(self.folder / "trials", self.index, verifies=verifies)
        self._records: dict[tuple[str, int], AttemptRecord] = {}  # by key and attempt
        self.claims = Claims(self.trial_folder)
        self.weights = Weights(self.folder, self.attempt_folder, self.claims.is_live)
        marker = self.folder / "format.json"
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder with --store.")
        if create and not marker.exists():
            self._create(marker)
        if not marker.is_file():
            raise InputError(
                f"no store at {folder}; `run` makes one, --store names another folder."
            )
        try:
            found = json.loads(marker.read_text())["format"]
        except (ValueError, KeyError, TypeError):
            found = "unreadable"
        if found != FORMAT:
            raise InputError(_other_format(folder, found))
        if create:
            for name in ("plans", "trials", "trained", "scored"):
                _make_folder(self.folder / name)

    def _create(self, marker: Path) -> None:
        """Make the marker; what a killed process left of it is no hindrance."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        if any(not path.name.startswith(f".{marker.name}-") for path in found):
            raise InputError(
                f"{self.folder} is not empty and holds no store; name another folder with --store."
            )
        write_whole(marker, json.dumps({"format": FORMAT}) + "\n")

    # Plans

    def write_plan(self, plan: Plan) -> None:
        """Store `plan` under its id, in place of an older one."""
        # Keys keep their order: that of the variants is the order of the rows.
        text = json.dumps(plan.to_json(), indent=1, ensure_ascii=False)
        write_whole(self.folder / "plans" / f"{plan.id}.json", text + "\n")

    def plan(self, plan_id: str) -> Plan:
        """Return the stored plan called `plan_id`.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        path = self.folder / "plans" / f"{plan_id}.json"
        try:
            return Plan.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            known = ", ".join(self.plan_ids()) or "none"
            raise InputError(
                f"no plan {plan_id} in {self.folder}; it holds {known}. `run` writes a plan."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"plan {path} cannot be read ({error}); run the study again."
            ) from None

    def tuning_plan(self, plan: Plan) -> Plan | None:
        """Return the stored plan of another's tuning trials; None where there is none."""
        there = plan.tuning is not None and plan.tuning_id in self.plan_ids()
        return self.plan(plan.tuning_id) if there else None

    def plan_ids(self) -> list[str]:
        """Return the names of the stored plans."""
        return sorted(path.stem for path in (self.folder / "plans").glob("*.json"))

    def plan_signature(self, plan_id: str) -> tuple[int, int, int] | None:
        """Return what changes when a plan is written; None where there is none."""
        return signature(self.folder / "plans" / f"{plan_id}.json")

    # Trials and who may run them

    def trial_folder(self, key: str) -> Path:
        """Return the folder of the trial with `key`."""
        return Path(f"{self.folder}/trials/{key}")  # one parse: this is asked thousands of times

    def begun(self, keys: Iterable[str]) -> Iterator[str]:
        """Yield those of `keys` of which there is anything; looks when first asked for one."""
        try:
            there = set(os.listdir(self.folder / "trials"))
        except FileNotFoundError:
            return
        yield from (key for key in keys if key in there)

    def attempt_folder(self, key: str, attempt: int) -> Path:
        """Return the folder of one attempt."""
        return Path(f"{self.folder}/trials/{key}/attempts/{attempt}")

    def claim(self, key: str, owner: Json, *, after: int | None = None) -> Claim | None:
        """Take the trial with `key` for a new attempt.

        Returns None where it has a result, a live claim, or where somebody else was faster: made
        an attempt that comes after number `after`, the newest that the caller knew of. A damaged
        result is moved aside, so that the new one finds room.
        """
        folder = self.trial_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        newest = self.claims.newest(key) if after is None else after
        if self.has_result(key) or self.claims.is_live(key, newest):
            return None
        claim = self.claims.take(key, newest + 1, owner)
        if claim is None:
            return None
        if self.has_result(key):
            claim.release()
            return None
        if self.damage(key):
            self.retire_result(key, f"damaged-{claim.attempt}")
        self.attempt_folder(key, claim.attempt).mkdir(parents=True, exist_ok=True)
        return claim

    def is_running(self, key: str) -> bool:
        """Return whether somebody holds a live claim on the trial and has no result yet."""
        return not self.has_result(key) and self.claims.is_live(key, self.claims.newest(key))

    def note_attempt(self, key: str, attempt: int, machine: Mapping[str, Json]) -> None:
        """Record what an attempt computes by, for those who would join it."""
        write_whole(self.attempt_folder(key, attempt) / "machine.json", json.dumps(machine) + "\n")

    def machine(self, key: str, attempt: int) -> Json:
        """Return what an attempt computes by; None where it did not say."""
        return read_json(self.attempt_folder(key, attempt) / "machine.json")

    def resumable(self, trial: Trial, attempt: int) -> list[Path]:
        """Return the attempts whose checkpoints an attempt may go on from, the newest first.

        These are the trial's own, and those of other trials that trained the same weights before.
        """
        own = [(trial.key, n) for n in self.claims.attempts(trial.key) if n < attempt]
        makers = self.weights.makers(trial.training_key)
        before = itertools.takewhile(lambda maker: maker != (trial.key, attempt), makers)
        others = [(key, n) for key, n in before if key != trial.key]
        return [self.attempt_folder(*each) for each in reversed([*others, *own])]

    def answered(self, trial: Trial, attempt: int) -> list[Path]:
        """Return the attempts whose answers may count for an attempt: those of the same weights."""
        own = [(trial.key, n) for n in self.claims.attempts(trial.key) if n < attempt]
        others = [
            (key, n)
            for key in self.weights.scored_with(trial.training_key)
            if key != trial.key
            for n in self.claims.attempts(key)
        ]
        return [self.attempt_folder(*each) for each in [*others, *own]]

    # Results

    def has_result(self, key: str) -> bool:
        """Return whether the trial with `key` is finished, with a result that is whole."""
        return self._checked(key).is_whole

    def result(self, key: str) -> TrialResult | None:
        """Return the result of the trial with `key`; None where it has none that is whole."""
        return self._reader.result(key)

    def indexed(self, key: str) -> Entry | None:
        """Return what the index says of a finished trial; None where its files are not as then."""
        entry = self.index.entry(key)
        if entry is None or entry.marks is None:
            return None
        if signature(f"{self.folder}/trials/{key}") != entry.marks.folder:
            return None
        return entry if self.result_sha256(key) == entry.sha256 else None

    def result_sha256(self, key: str) -> str | None:
        """Return the hash of a whole result's bytes; None where there is none."""
        checked = self._checked(key)
        return checked.sha256 if checked.is_whole else None

    def damage(self, key: str) -> str | None:
        """Return what is wrong with the result of a trial; None where nothing is."""
        return self._checked(key).damage

    def _checked(self, key: str) -> CheckedResult:
        return self._reader.read(key)

    def commit(self, result: TrialResult) -> bool:
        """Write the result of an attempt, once: predictions first, then the result.

        Returns whether this result is the one that counts; False where another attempt was first,
        whose result stays. Whether the two agree is then noted beside the attempt.

        Raises:
            RuntimeError: the predictions on disk are not those of the result.
        """
        folder = self.attempt_folder(result.key, result.attempt)
        predictions = folder / PREDICTIONS_FILE
        sync_to_disk(predictions)
        sync_to_disk(folder)
        if file_sha256(predictions) != result.predictions_sha256:
            raise RuntimeError(f"{predictions} does not hold what was written; check the disk.")
        self.weights.note_scored(result.training_key, result.key)
        if link_whole(self.result_path(result.key), result_text(result)):
            return True
        self._note_late(result)
        return False

    def _note_late(self, late: TrialResult) -> None:
        counts = self.result(late.key)
        equal = counts is not None and agree(counts, late)
        path = self.attempt_folder(late.key, late.attempt) / "late.json"
        write_whole(path, json.dumps({"equal": equal}) + "\n")

    def unequal_attempts(self, key: str) -> list[int]:
        """Return the attempts whose late result was another than the one that counts."""
        attempts = self.claims.attempts(key) if self.newest_attempt(key) > 1 else ()
        folders = ((n, self.attempt_folder(key, n)) for n in attempts)
        return [n for n, folder in folders if read_json(folder / "late.json") == {"equal": False}]

    def result_path(self, key: str) -> Path:
        """Return where the result of a trial is, once it has one."""
        return Path(self._reader.result_path(key))

    def predictions_path(self, key: str, attempt: int) -> Path:
        """Return where an attempt keeps its predictions."""
        return Path(self._reader.predictions_path(key, attempt))

    def retire_result(self, key: str, label: str) -> None:
        """Move a result aside, so that its trial runs again; nothing is lost."""
        path = self.result_path(key)
        os.replace(path, path.with_name(f"result.{label}.json"))

    # How attempts ended, and pruning

    def end_attempt(self, trial: Trial, attempt: int, ended: str, **fields: Json) -> None:
        """Record how an attempt ended and what it added, where nobody has.

        Args:
            trial: Its trial.
            attempt: Its number.
            ended: As `AttemptRecord` has it.
            fields: What else is known: message, log_tail, seconds.
        """
        folder = self.attempt_folder(trial.key, attempt)
        if read_record(folder) is None and folder.is_dir():
            earlier = self.resumable(trial, attempt)
            write_record(folder, record_of(folder, attempt, ended, earlier=earlier, **fields))

    def record(self, key: str, attempt: int) -> AttemptRecord | None:
        """Return how an attempt ended; None where nobody has said. It is written once."""
        found = self._records.get((key, attempt)) or read_record(self.attempt_folder(key, attempt))
        if found is not None:
            self._records[key, attempt] = found
        return found

    def records(self, key: str) -> list[AttemptRecord]:
        """Return how the attempts of a trial ended, oldest first."""
        found = (self.record(key, n) for n in self.claims.attempts(key))
        return [record for record in found if record is not None]

    def newest_attempt(self, key: str) -> int:
        """Return the number of a trial's newest attempt, 0 where there is none."""
        entry = self.indexed(key)
        return self.claims.newest(key) if entry is None else entry.newest

    def seconds(self, key: str) -> float:
        """Return how long all attempts of a trial took together."""
        if (entry := self.indexed(key)) is not None:
            return entry.seconds
        return sum(record.seconds for record in self.records(key))

    def failures(self, key: str) -> list[AttemptRecord]:
        """Return the attempts that count against a trial, oldest first."""
        forgiven = (read_json(self.trial_folder(key) / "forgiven.json") or {}).get(
            "up_to_attempt", 0
        )
        return [each for each in self.records(key) if each.failed and each.attempt > forgiven]

    def has_failed(self, key: str, max_attempts: int | None) -> bool:
        """Return whether a trial failed as often as it may; None: each kind's own limit."""
        ends = [record.ended for record in self.failures(key)]
        return any(
            ends.count(kind) >= (max_attempts if max_attempts and kind != "input" else limit)
            for kind, limit in ATTEMPT_LIMITS.items()
        )

    def times_out_of_memory(self, key: str) -> int:
        """Return how many attempts of a trial ran out of memory."""
        return sum(record.ended == "out_of_memory" for record in self.records(key))

    def forgive_failures(self, key: str) -> None:
        """Let the failures so far count no more, as `run --retry failed` asks."""
        path = self.trial_folder(key) / "forgiven.json"
        write_whole(path, json.dumps({"up_to_attempt": self.claims.newest(key)}) + "\n")

    def prune(self, key: str, step: int) -> None:
        """Let a trial stop at its next step: its course up to `step` promises too little."""
        link_whole(self.pruned_path(key), json.dumps({"step": step}) + "\n")

    def revive(self, key: str) -> None:
        """Let a trial count as pruned no more, so that it runs to its end."""
        self.pruned_path(key).unlink(missing_ok=True)

    def is_pruned(self, key: str) -> bool:
        """Return whether a trial was pruned."""
        return self.pruned_path(key).exists()

    def pruned_path(self, key: str) -> Path:
        """Return the file whose existence prunes a trial."""
        return self.trial_folder(key) / "pruned.json"

    # The course of an attempt

    def progress(self, key: str, attempt: int) -> Json:
        """Return the last whole line of an attempt's metrics.jsonl; None where there is none."""
        return last_metrics(self.attempt_folder(key, attempt))

    def metrics(self, key: str, attempt: int, *, skip: int = 0) -> list[dict[str, Json]]:
        """Return the whole lines of an attempt's metrics.jsonl after the first `skip`."""
        return metrics(self.attempt_folder(key, attempt))[skip:]


def _other_format(folder: Path, found: Json) -> str:
    if found == 1:
        return (
            f"the store at {folder} was made by an earlier gatera (format 1), whose keys say less; "
            f"this one reads format {FORMAT}. Keep it for its results, and name another folder "
            "with --store; CHANGELOG.md says more."
        )
    return (
        f"the store at {folder} has format {found}, this gatera reads format {FORMAT}; "
        "name another folder with --store, or use the version of gatera that made it."
    )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except FileExistsError:
        raise InputError(
            f"{path} is a file where the store has a folder; move it away, or name another --store."
        ) from None
