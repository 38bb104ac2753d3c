"""What stands beneath a table: footnotes, and what the numbers rest on. No local paths."""

from __future__ import annotations

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
    identities = record.results[-1].provenance["identities"]
    backbone = ", ".join(f"{name} {str(v)[:16]}" for name, v in identities["backbone"].items())
    files = [
        f"{task}/{split} {str(sha)[:16]}"
        for task, splits in sorted(identities["data"].items())
        for split, sha in sorted(splits.items())
    ]
    return [
        f"backbone: {backbone}",
        f"prompt template: {str(identities['template'])[:16]}",
        f"data: {', '.join(files)}",
        *_data_counts(record),
    ]


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
