"""The forms of a table: markdown (GitHub), CSV, LaTeX (booktabs) and JSON rows.

All come from the same `Table`. Markdown and LaTeX print percent, CSV and JSON unrounded fractions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from gatera.reports.records import StudyRecord, mixed_provenance
from gatera.reports.statistics import detectable_difference
from gatera.reports.tables import Comparison, Table, TableRow
from gatera.trial import Json

DASH = "—"


def markdown(table: Table, *, measured: bool = True, figures: Sequence[str] = ()) -> str:
    """Return the whole report as GitHub markdown.

    Args:
        table: What is reported.
        measured: Whether to print what a clock or a host says.
        figures: Paths of the figures, as seen from the report.
    """
    record = table.record
    blocks = [
        f"# {record.study} at scale {record.scale}",
        _introduction(record),
        _markdown_table(*_accuracy_columns(table, measured=measured)),
        *(f"![{_figure_title(path)} of {record.study}]({path})" for path in figures),
        _reading(table),
    ]
    if any(row.gates for row in table.rows):
        blocks += ["## Gates", _markdown_table(*_gate_columns(table)), _GATE_READING]
    if notes := _footnotes(table):
        blocks += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    blocks += ["## Provenance", "\n".join(f"- {line}" for line in _provenance(record))]
    return "\n\n".join(blocks) + "\n"


def latex(table: Table) -> str:
    """Return the accuracy table as a LaTeX tabular with booktabs rules."""
    header, lines = _accuracy_columns(table, measured=False)
    rows = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in lines]
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [
            f"% {table.record.study} at scale {table.record.scale}; needs \\usepackage{{booktabs}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(_escape(cell) for cell in header) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def csv_text(table: Table, *, measured: bool = True) -> str:
    """Return the rows as CSV; an empty cell is a missing number."""
    rows = [_flat(row) for row in json_rows(table, measured=measured)]
    buffer = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def json_rows(table: Table, *, measured: bool = True) -> list[dict[str, Json]]:
    """Return the rows as JSON values: unrounded fractions, null where a number is missing."""
    return [_json_row(row, measured=measured) for row in table.rows]


def _json_row(row: TableRow, *, measured: bool) -> dict[str, Json]:
    values: dict[str, Json] = {
        "variant": row.variant,
        "seeds": len(row.seeds),
        "scores": dict(row.scores),
        "average": row.average,
        "average_sd": row.spread,
        "difference": None,
        "published": row.published,
        "trainable_parameters": row.trainable,
        "trainable_share": row.trainable_share,
        "no_keyword": dict(row.no_keyword),
        "gates": dict(row.gates),
        "notes": list(row.notes),
    }
    if row.comparison is not None:
        d = row.comparison.difference
        values["difference"] = {
            "mean": d.mean,
            "low": _finite(d.low),
            "high": _finite(d.high),
            "p": _finite(d.p),
            "adjusted_p": _finite(row.comparison.adjusted_p),
            "pairs": d.pairs,
            "verdict": row.comparison.verdict,
        }
    if measured:
        values |= {"seconds": row.seconds, "peak_memory_bytes": row.peak_memory_bytes}
    return values


def _flat(value: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Return nested values under names such as scores.boolq; lists are joined."""
    flat: dict[str, Json] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = "; ".join(item) if isinstance(item, list) else item
    return flat


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _introduction(record: StudyRecord) -> str:
    lines = [record.title] if record.title else []
    if record.reproduces:
        lines.append(f"Reproduces {record.reproduces}.")
    if record.departures:
        lines.append(f"**Departs from the study's defaults** — {_said(record.departures)}.")
    lines.append("Accuracy in %, mean over seeds; the average is the plain mean over tasks.")
    return "\n\n".join(lines)


def _said(departures: Mapping[str, Json]) -> str:
    """Return how a run departs from its study, as the options that ask for it."""
    options = [f"--set {name}={value}" for name, value in departures.get("set", {}).items()]
    for name in ("seeds", "tasks", "variants"):
        if name in departures:
            value = departures[name]
            options.append(f"--{name} {','.join(value) if isinstance(value, list) else value}")
    return ", ".join(f"`{option}`" for option in options)


def _figure_title(path: str) -> str:
    """Return what a figure shows, from its name `<stem>.<what>.png`."""
    return path.split(".")[-2].capitalize()


def _accuracy_columns(table: Table, *, measured: bool) -> tuple[list[str], list[list[str]]]:
    record = table.record
    # A study without published numbers has no column for them.
    published = f"published ({table.published.model})" if table.published else None
    header = [
        "variant",
        "seeds",
        *record.tasks,
        "average",
        f"Δ to {record.reference} [95 %]",
        "verdict",
        "trainable",
        *([published] if published else []),
        *(["time", "peak memory"] if measured else []),
    ]
    return header, [_accuracy_cells(row, table, measured=measured) for row in table.rows]


def _accuracy_cells(row: TableRow, table: Table, *, measured: bool) -> list[str]:
    record = table.record
    name = f"{row.variant} (reference)" if row.variant == record.reference else row.variant
    spread = f" ± {100 * row.spread:.2f}" if row.spread is not None else ""
    cells = [
        name,
        f"{len(row.seeds)}" if len(row.seeds) == row.planned else f"{len(row.seeds)}/{row.planned}",
        *(_percent(row.scores[task]) for task in record.tasks),
        _percent(row.average) + spread,
        _difference(row.comparison),
        _verdict(row.comparison),
        _trainable(row),
    ]
    if table.published:
        cells.append(_percent(row.published))
    if measured:
        cells += [_seconds(row.seconds), _memory(row.peak_memory_bytes)]
    return cells


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.2f}"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return DASH
    d = comparison.difference
    if not math.isfinite(d.low):
        return f"{100 * d.mean:+.2f} [{DASH}]"
    return f"{100 * d.mean:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return DASH
    if not math.isfinite(comparison.adjusted_p):
        return "one seed: no test"
    if comparison.verdict == "resolved":
        return f"resolved (p {_p_value(comparison.adjusted_p)})"
    needed = comparison.seeds_needed
    more = f"; about {needed} seeds would" if needed is not None else ""
    return f"not resolved (p {_p_value(comparison.adjusted_p)}{more})"


def _p_value(p: float) -> str:
    """Return a p-value to three decimals; a smaller one is said to be below, never zero."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _trainable(row: TableRow) -> str:
    if row.trainable is None:
        return DASH
    share = f" ({100 * row.trainable_share:.4f} %)" if row.trainable_share else ""
    return f"{row.trainable:,}{share}"


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f} s"


def _memory(value: int | None) -> str:
    return DASH if value is None else f"{value / 2**20:.0f} MiB"


def _reading(table: Table) -> str:
    """Say how the table is to be read, and what it cannot tell."""
    record = table.record
    lines = [
        f"Δ is the difference of averages to `{record.reference}`, paired by seed, in percentage "
        "points, with its Student-t interval over seeds (95 %, not adjusted). *Resolved* means "
        "that the p-value of the paired t-test, adjusted by Holm over the compared rows, is below "
        "0.05. ± is the standard deviation over seeds. `frozen` is the backbone without "
        "training: one trial, no spread, not tested. The number of seeds named beside "
        "*not resolved* would find a difference of the size seen with 80 % power.",
    ]
    detectable = _detectable(table)
    if detectable is not None:
        lines.append(
            f"With this table's spread and seeds, a difference of {100 * detectable:.2f} points "
            "or more is found with 80 % power (unadjusted); smaller ones may stay unresolved."
        )
    if table.published:
        lines.append(
            f"Published: {table.published.source}, measured on {table.published.model}"
            + (
                "."
                if record.scale == "paper"
                else "; at another scale it is no target, only "
                "the order of the rows can be looked at."
            )
        )
        lines += [
            f"`{row.variant}`: {table.published.notes[row.variant]}."
            for row in table.rows
            if row.variant in table.published.notes
        ]
    return "\n\n".join(lines)


def _detectable(table: Table) -> float | None:
    """Return the smallest detectable difference at the median spread of the compared rows."""
    known = [
        row.comparison.difference
        for row in table.rows
        if row.comparison is not None and math.isfinite(row.comparison.difference.sd)
    ]
    if not known:
        return None
    middle = sorted(known, key=lambda d: d.sd)[len(known) // 2]
    return detectable_difference(middle.sd, middle.pairs) if middle.sd > 0 else None


_GATE_READING = (
    "Over the tokens of the test items, every gated layer counted alike; shares in %, entropy in "
    "nats (0 for closed or open gates, 0.693 for gates at one half)."
)


def _gate_columns(table: Table) -> tuple[list[str], list[list[str]]]:
    header = ["variant", "mean", "below 0.1", "above 0.9", "entropy", "prompt mean", "answer mean"]
    lines = []
    for row in table.rows:
        if row.gates:
            every = row.gates["overall"]
            lines.append(
                [
                    row.variant,
                    f"{every['mean']:.3f}",
                    _percent(every["share_below_0.1"]),
                    _percent(every["share_above_0.9"]),
                    f"{every['entropy']:.3f}",
                    *(_gate_mean(row.gates.get(tokens)) for tokens in ("prompt", "answer")),
                ]
            )
    return header, lines


def _gate_mean(gates: Mapping[str, float] | None) -> str:
    return DASH if gates is None else f"{gates['mean']:.3f}"


def _footnotes(table: Table) -> list[str]:
    notes = [note for row in table.rows for note in row.notes]
    silent = [
        f"{row.variant}: {_percent(worst)} % of the outputs on {task} hold no answer keyword and "
        "count as wrong"
        for row in table.rows
        for task, worst in [_worst(row.no_keyword)]
        if worst is not None and worst > 0.01
    ]
    mixed = [
        f"the rows were not made alike ({field}): {'; '.join(lines)}"
        for field, lines in mixed_provenance(table.record).items()
    ]
    return notes + silent + mixed


def _worst(shares: Mapping[str, float | None]) -> tuple[str, float | None]:
    known = {task: share for task, share in shares.items() if share is not None}
    if not known:
        return "", None
    task = max(known, key=lambda name: known[name])
    return task, known[task]


def _provenance(record: StudyRecord) -> list[str]:
    results = record.results
    lines = [f"study file: {record.study_sha256[:16]}"]
    if not results:
        return [*lines, "no trial has finished"]
    for field in ("code_sha256", "commit", "dirty", "device", "dtype", "threads", "loss_mask"):
        found = dict.fromkeys(result.provenance.get(field) for result in results)
        said = [_short(field, value) for value in found if value is not None or len(found) == 1]
        lines.append(f"{field}: {', '.join(said)}")
    versions: dict[str, str] = {}
    for result in results:
        versions |= result.provenance["versions"]
    lines.append("versions: " + ", ".join(f"{name} {v}" for name, v in sorted(versions.items())))
    lines += _data_lines(record)
    lines.append(f"trials: {', '.join(dict.fromkeys(result.key for result in results))}")
    return lines


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


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))


_LATEX = {
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "<": "$<$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    DASH: "---",
}


def _escape(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in cell)
