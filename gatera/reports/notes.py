"""What stands beneath a table: footnotes, and what the numbers rest on. No local paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gatera.reports.cells import DASH, percent
from gatera.reports.diagnosis import SILENT_SHARE
from gatera.reports.records import StudyRecord, mixed_provenance
from gatera.reports.tables import FROZEN, Table
from gatera.trial import Json


def footnotes(table: Table) -> list[str]:
    """Return why numbers are missing, and what else has to be known to read the rest."""
    notes = [*table.record.notes]
    notes += [note for row in table.rows for note in row.notes]
    frozen = table.row(FROZEN)
    if frozen is not None:
        silent = {t: share for t, share in frozen.no_keyword.items() if (share or 0) > SILENT_SHARE}
        if silent:
            said = ", ".join(f"{percent(share)} % on {task}" for task, share in silent.items())
            notes.append(f"frozen: outputs without an answer keyword count as wrong: {said}")
    notes += [
        f"the rows were not made alike ({field}): {'; '.join(lines)}"
        for field, lines in mixed_provenance(table.record).items()
    ]
    return notes


def settings(record: StudyRecord) -> list[str]:
    """Return what the rows were trained and scored with, a line each."""
    rows = [row for row in record.rows if row.variant != FROZEN and row.results]
    if not rows:
        return []
    shown = next((row for row in rows if row.variant == record.reference), rows[0])
    config = next(iter(shown.results.values())).config
    tuned = ", and for what tuning chose" if any(row.tuning for row in rows) else ""
    lines = [f"as `{shown.variant}` has them; other rows differ in what is named below{tuned}"]
    for section in ("adapter", "train", "eval", "data"):
        fields = {n: v for n, v in config[section].items() if (section, n) != ("data", "tasks")}
        lines.append(f"{section}: " + ", ".join(f"{n} {_setting(v)}" for n, v in fields.items()))
    for row in rows:
        if row.changes:
            said = ", ".join(f"{name} = {_setting(v)}" for name, v in row.changes.items())
            lines.append(f"{row.variant}: {said}")
    if items := _test_items(record):
        lines.append(f"test items: {items}")
    return lines


def _setting(value: Json) -> str:
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    return DASH if value is None else str(value)


def _test_items(record: StudyRecord) -> str:
    """Return the number of scored items of each task."""
    answers = next((each for row in record.rows for each in row.answers.values()), {})
    return ", ".join(f"{task} {len(answers[task])}" for task in record.tasks if task in answers)


def provenance(record: StudyRecord) -> list[str]:
    """Return what the numbers rest on, a line each: hashes, versions, device, data, trials."""
    results = record.results
    lines = [f"study file: {record.study_sha256[:16]}"]
    if not results:
        return [*lines, "no trial has finished"]
    for field in ("code_sha256", "commit", "dirty", "device", "dtype", "threads", "loss_mask"):
        found = dict.fromkeys(result.provenance.get(field) for result in results)
        said = [_short(field, value) for value in found if value is not None or len(found) == 1]
        lines.append(f"{field}: {', '.join(said)}")
    lines.append(f"versions: {_versions(record)}")
    lines += _data_lines(record)
    lines.append(f"trials: {', '.join(dict.fromkeys(result.key for result in results))}")
    return lines


def _versions(record: StudyRecord) -> str:
    """Return each library with its version, or all of them where results are mixed."""
    found: dict[str, dict[str, None]] = {}
    for result in record.results:
        for name, version in result.provenance["versions"].items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(found[name])}" for name in sorted(found))


def _short(field: str, value: Json) -> str:
    if value is None:
        return DASH
    return str(value)[:16] if field.endswith("sha256") else str(value)


def _data_lines(record: StudyRecord) -> list[str]:
    """Return the hashes of what went in; several values where rows differ."""
    found: dict[str, dict[str, dict[str, None]]] = {}  # line -> name -> hashes, in order
    for result in record.results:
        for line, name, sha256 in _identities(result.provenance["identities"]):
            found.setdefault(line, {}).setdefault(name, {})[str(sha256)[:16]] = None
    return [
        f"{line}: "
        + ", ".join(f"{name} {' and '.join(hashes)}".strip() for name, hashes in names.items())
        for line, names in found.items()
    ] + _data_counts(record)


def _identities(identities: Mapping[str, Json]) -> Iterator[tuple[str, str, Json]]:
    """Yield each hash of a trial's identities with its line and its name there."""
    for name, sha256 in identities["backbone"].items():
        yield "backbone", name, sha256
    yield "prompt template", "", identities["template"]
    for task, splits in sorted(identities["data"].items()):
        for split, sha256 in sorted(splits.items()):
            if sha256 is not None:
                yield "data", f"{task}/{split}", sha256
    for setting, sha256 in sorted(identities.get("sources", {}).items()):
        yield "files that settings name", setting, sha256


def _data_counts(record: StudyRecord) -> list[str]:
    """Return how many items were dropped or cut, the largest number among the trials."""
    said = {
        "dropped_items": "training items dropped because they stand in a test set",
        "truncated_train_items": "training prompts cut to train.max_tokens",
        "truncated_test_items": "test prompts cut to the backbone's context",
    }
    counts = {
        name: max(result.provenance.get(name) or 0 for result in record.results) for name in said
    }
    return [f"{text}: {counts[name]}" for name, text in said.items()]
