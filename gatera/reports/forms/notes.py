"""What stands beneath a table: footnotes, and what the numbers rest on. No local paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gatera.reports.forms.words import DASH, percent
from gatera.reports.judging.diagnosis import SILENT_SHARE
from gatera.reports.records import StudyRecord, mixed_provenance
from gatera.reports.tables import FROZEN, Table
from gatera.settings import declared
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
    notes += list(dict.fromkeys(_score_notes(table)))
    notes += _tuned_otherwise(table.record)
    notes += [
        f"the rows were not made alike ({field}): {'; '.join(lines)}"
        for field, lines in mixed_provenance(table.record).items()
    ]
    return notes


def _tuned_otherwise(record: StudyRecord) -> list[str]:
    """Return what to say where rows were tuned by another way of answering than they are scored."""
    rows = [row for row in record.rows if row.tuning is not None]
    configs = [result.config for row in rows for result in row.results.values()]
    found = {(each["train"]["validation_method"], each["eval"]["method"]) for each in configs}
    return [
        f"settings were chosen on validation items answered by {validated!r}, and the table's "
        f"items are answered by {scored!r}: what suits the one need not suit the other "
        "(train.validation_method, eval.method)"
        for validated, scored in sorted(found)
        if validated != scored
    ]


def _score_notes(table: Table) -> Iterator[str]:
    """Yield how each score of a whole task was computed, or why it was not."""
    for result in table.record.results:
        for name, note in result.parts.get("scoring", {}).get("notes", {}).items():
            _, metric, task = name.split("/")
            yield f"{metric} on {task}: {note}"


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
        fields = {n: v for n, v in config[section].items() if _is_said(section, n, v)}
        lines.append(f"{section}: " + ", ".join(f"{n} {_setting(v)}" for n, v in fields.items()))
    for row in rows:
        if row.changes:
            said = ", ".join(f"{name} = {_setting(v)}" for name, v in row.changes.items())
            lines.append(f"{row.variant}: {said}")
    if items := _test_items(record):
        lines.append(f"test items: {items}")
    return lines


def _is_said(section: str, name: str, value: Json) -> bool:
    """Return whether a setting is printed: of the adapter, what differs from its own default."""
    if section == "adapter":
        return name in _ALWAYS or value != declared()[f"{section}.{name}"].neutral
    return (section, name) != ("data", "tasks") and not (name.endswith("_seed") and value is None)


_ALWAYS = ("method", "gate", "delta", "r")  # of the adapter


def _setting(value: Json) -> str:
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    return DASH if value is None else str(value)


def _test_items(record: StudyRecord) -> str:
    """Return the number of scored items of each task."""
    items = next((each for row in record.rows for each in row.items.values()), {})
    return ", ".join(f"{task} {len(items[task])}" for task in record.tasks if task in items)


def provenance(record: StudyRecord) -> list[str]:
    """Return what the numbers rest on, a line each: hashes, versions, device, data, trials."""
    results = record.results
    lines = [f"study file: {record.study_sha256[:16]}"]
    if not results:
        return [*lines, "no trial has finished"]
    lines.append(f"code: {', '.join(dict.fromkeys(_code_by_row(record)))}")
    for field in (*_OF_PARTS, "dropped_items", "truncated_items"):
        lines += _part_lines(record, field)
    lines += _data_lines(record)
    lines.append(f"trials: {', '.join(dict.fromkeys(result.key for result in results))}")
    return lines


_OF_PARTS = ("versions", "commit", "dirty", "device", "processor", "dtype", "threads", "loss_mask")
_SAID = {
    "dropped_items": "training items dropped because they stand in a test set",
    "truncated_items": "prompts cut to what the backbone, or train.max_tokens, takes",
}


def _code_by_row(record: StudyRecord) -> Iterator[str]:
    """Yield the hash of the code of each row that has results."""
    for row in record.rows:
        found = dict.fromkeys(result.code_sha256[:16] for result in row.results.values())
        if found:
            yield f"{row.variant} {' and '.join(found)}"


def _part_lines(record: StudyRecord, field: str) -> list[str]:
    """Return what training and scoring say of a field: one line where they say the same."""
    said: dict[str, str] = {}
    for part in ("training", "scoring"):
        found = (r.parts.get(part, {}) for r in record.results)
        values = [provenance[field] for provenance in found if field in provenance]
        if field in _SAID and values:
            values = [max(values)]
        if values:
            said[part] = ", ".join(dict.fromkeys(_shown(field, value) for value in values))
    name = _SAID.get(field, field)
    if len(set(said.values())) == 1:
        return [f"{name}: {next(iter(said.values()))}"]
    return [f"{name} ({part}): {text}" for part, text in said.items()]


def _shown(field: str, value: Json) -> str:
    if value is None:
        return DASH
    if field == "versions":
        return ", ".join(f"{name} {value[name]}" for name in sorted(value))
    return str(value)[:16] if field == "commit" else str(value)


def _data_lines(record: StudyRecord) -> list[str]:
    """Return the hashes of what went in; several values where rows differ."""
    found: dict[str, dict[str, dict[str, None]]] = {}  # line -> name -> hashes, in order
    for result in record.results:
        for part in result.parts.values():
            for line, name, sha256 in _identities(part["identities"]):
                found.setdefault(line, {}).setdefault(name, {})[str(sha256)[:16]] = None
    return [
        f"{line}: "
        + ", ".join(f"{name} {' and '.join(hashes)}".strip() for name, hashes in names.items())
        for line, names in found.items()
    ]


def _identities(identities: Mapping[str, Json]) -> Iterator[tuple[str, str, Json]]:
    """Yield each hash of a trial's identities with its line and its name there."""
    for name, sha256 in identities["backbone"].items():
        yield "backbone", name, sha256
    yield "prompt template", "", identities["template"]
    if identities.get("items"):
        yield "items that train and validate", "", identities["items"]
    for task, splits in sorted(identities["data"].items()):
        for split, sha256 in sorted(splits.items()):
            if sha256 is not None:
                yield "data", f"{task}/{split}", sha256
    for setting, sha256 in sorted(identities.get("sources", {}).items()):
        yield "files that settings name", setting, sha256
