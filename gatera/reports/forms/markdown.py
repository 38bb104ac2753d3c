"""A report as GitHub markdown: the table, how to read it, what looks wrong, what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.forms.cells import (
    Cells,
    compact_cells,
    contrast_cells,
    cost_cells,
    gate_cells,
    matched_cells,
    other_cells,
    paper_cells,
    score_cells,
    signal_cells,
    task_gate_cells,
    tuning_cells,
    verdict_cells,
)
from gatera.reports.forms.findings import findings
from gatera.reports.forms.notes import footnotes, provenance, settings
from gatera.reports.forms.words import DASH
from gatera.reports.judging.bootstrap import MIN_SEEDS
from gatera.reports.judging.comparison import Comparison
from gatera.reports.judging.paired import RankAgreement
from gatera.reports.records import StudyRecord
from gatera.reports.tables import FROZEN, Table
from gatera.trial import Json


def markdown(table: Table, *, measured: bool = True, figures: Sequence[str] = ()) -> str:
    """Return the whole report as GitHub markdown.

    Args:
        table: What is reported.
        measured: Whether to print what a clock or a host says.
        figures: Paths of the figures, as seen from the report.
    """
    record = table.record
    compact = [compact_cells(table)]
    shown = [contrast_cells(table), *compact] if table.contrasts else compact
    by_name = {path.split(".")[-2]: _image(path, record.study) for path in figures}
    blocks = [
        f"# {record.study} at scale {record.scale}",
        _introduction(record),
        "## Findings",
        _listed(findings(table)),
        _above(table),
        *map(_markdown_table, shown),
        *_taken(by_name, *_FIRST),
        *_sections(table, measured=measured, figures=by_name),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


_FIRST = ("differences", "curve")  # figures that answer the question


def _sections(table: Table, *, measured: bool, figures: dict[str, str]) -> Iterator[str]:
    """Yield what stands behind the findings, the figures where they belong."""
    record = table.record
    if len(record.tasks) > 1:
        yield from ("## Scores by task", _markdown_table(score_cells(table)))
        yield from _taken(figures, *ENDPOINTS)  # called by an endpoint: scores by task
    if table.tested:
        yield from ("## Differences", _markdown_table(verdict_cells(table)))
    yield from _reading_differences(table)
    yield from (
        "## Knowledge, time and memory",
        _markdown_table(cost_cells(table, measured=measured)),
    )
    yield from _reading_columns(table)
    if cells := matched_cells(table):
        yield from ("## Knowledge kept at equal accuracy", _markdown_table(cells), _MATCHED_READING)
        yield from _taken(figures, "knowledge")
    if any(row.gates for row in table.rows):
        yield from ("## Gates", _markdown_table(gate_cells(table)), _gate_reading(record))
        yield from _taken(figures, "gates")
    if cells := task_gate_cells(table):
        yield from ("## Gates by task", _markdown_table(cells), _TASK_GATES_READING)
    if hints := _hints(table):
        yield from ("## Diagnosis", _DIAGNOSIS_READING, hints)
    if any(row.tuning for row in table.rows):
        yield from ("## Tuning", _markdown_table(tuning_cells(table)), _TUNING_READING)
    if table.paper is not None:
        yield from ("## Against the paper", _markdown_table(paper_cells(table)), _beside(table))
    if cells := other_cells(table):
        yield from ("## Other scores", _markdown_table(cells), _OTHER_READING)
    if cells := signal_cells(table):
        yield from ("## Endpoints", _markdown_table(cells), _SIGNAL_READING)
    if figures:
        yield from ("## Further figures", *figures.values())
    if notes := footnotes(table):
        yield from ("## Notes", _listed(notes))
    if lines := settings(record):
        yield from ("## Settings", _listed(lines))
    yield from ("## Provenance", _listed(provenance(record)))


def _taken(figures: dict[str, str], *names: str) -> list[str]:
    """Take the figures of these names out of what is left, those that there are."""
    return [figures.pop(name) for name in names if name in figures]


def _above(table: Table) -> str:
    """Say what the numbers of the table are."""
    heading = ENDPOINTS[table.record.endpoint].heading
    lines = [f"{heading}, mean over seeds ± their standard deviation, the plain mean over tasks."]
    if table.published is not None:
        lines.append(f"Published: {table.published.source}, measured on {table.published.model}.")
    if not any(row.tuning for row in table.rows):
        lines.append(
            "Nothing was tuned for a row of its own: all share the settings that their change "
            "leaves alone, and a row may be behind only because these suit it less."
        )
    return "\n".join(lines)


def _introduction(record: StudyRecord) -> str:
    lines = [record.title] if record.title else []
    if record.reproduces:
        lines.append(f"Reproduces {record.reproduces}.")
    if record.departures:
        lines.append(f"**Departs from the study's defaults** — {_said(record.departures)}.")
    return "\n\n".join(lines)


def _said(departures: Mapping[str, Json]) -> str:
    """Return how a run departs from its study, as the options that ask for it."""
    options = [f"--set {name}={value}" for name, value in departures.get("set", {}).items()]
    for name in ("seeds", "tasks", "variants"):
        if name in departures:
            value = departures[name]
            options.append(f"--{name} {','.join(value) if isinstance(value, list) else value}")
    return ", ".join(f"`{option}`" for option in options)


def _image(path: str, study: str) -> str:
    """Return a figure; its name `<plan id>.<what>.png` says what it shows."""
    title = path.split(".")[-2].replace("_", " ").capitalize()
    return f"![{title} of {study}]({path})"


def _reading_differences(table: Table) -> Iterator[str]:
    endpoint = ENDPOINTS[table.record.endpoint]
    yield (
        f"Δ is the difference of averages to `{table.record.reference}`, paired by seed, in "
        f"{endpoint.unit}, with its Student-t interval over seeds (95 %, not adjusted). "
        f"{_tested_by(table)} `frozen` is the backbone without training: one trial, no spread, not "
        "tested. *Seeds to resolve* would resolve a difference of the size seen with 80 % power, "
        "at Holm's strictest step."
    )
    if any(each.crossed for each in table.tested.values()):
        yield (
            "The second interval (95 %, not adjusted) is a studentized bootstrap of the same "
            "difference over seeds and test items together, the same drawn items for all seeds "
            "and all variants, drawn within each task: it speaks of other test items too, where "
            "the first speaks of other seeds on these. With fewer than ten seeds it is a little "
            "too short. No verdict rests on it."
            + (_CLUSTERS if _has_clusters(table.record) else "")
        )
    elif any(1 < len(row.seeds) < MIN_SEEDS for row in table.rows):
        yield f"The bootstrap over seeds and test items is given from {MIN_SEEDS} seeds on."
    if endpoint.is_published and any(_reaches_too_far(each) for each in table.tested.values()):
        yield (
            "No difference can be above 100 points: an interval that reaches beyond comes from few "
            "seeds, or from one or two that are unlike all others, whose spread its form does not "
            "fit. Look at each seed's average, in the CSV."
        )
    if any(each.single_runs for each in table.tested.values()):
        yield (
            "McNemar's exact test compares two trained models on these test items. It says "
            "nothing of other seeds, and so nothing of the methods."
        )


def _tested_by(table: Table) -> str:
    """Say what verdicts are given on."""
    if table.contrasts:
        return (
            "This study tests its contrasts, weighted sums of rows, and gives no verdict on a "
            "row: *resolved* means that the p-value of a contrast's paired t-test, adjusted by "
            "Holm over the contrasts, is below 0.05."
        )
    return (
        "*Resolved* means that the p-value of the paired t-test, adjusted by Holm over the "
        "compared rows, is below 0.05."
    )


def _reaches_too_far(comparison: Comparison) -> bool:
    """Whether an interval holds differences of accuracies that cannot be."""
    intervals = (comparison.difference, comparison.crossed)
    ends = [end for each in intervals if each is not None for end in (each.low, each.high)]
    return any(math.isfinite(end) and abs(end) > 1 for end in ends)


_MATCHED_READING = (
    "The loss on held-out text, in nats a token, minus the reference's, each read where its run "
    "first reaches the highest validation accuracy that both runs of a pair reach; between two "
    "validations both are taken to change linearly. Below 0: less knowledge was lost than by the "
    "reference. Student-t interval over seeds (95 %, not adjusted); p adjusted by Holm over the "
    "rows."
)
_OTHER_READING = (
    "Scores of all outputs of a task together, in %, mean over seeds. How each was computed, or "
    "why it is missing, is in the notes. No verdict rests on them."
)
_SIGNAL_READING = (
    "How well each score tells rows apart: the standard deviation of the trained rows' averages, "
    "beside that over seeds within a row (pooled over rows), both times 100, and their ratio. "
    "Seeds alone would let the averages scatter by the second, divided by the root of their number."
)
_CLUSTERS = " Items that ask about the same thing are drawn together."


def _has_clusters(record: StudyRecord) -> bool:
    return any(label for items in record.clusters.values() for label in items.values())


def _reading_columns(table: Table) -> Iterator[str]:
    frozen = table.row(FROZEN)
    if any(row.knowledge for row in table.rows):
        before = f", {frozen.knowledge_loss:.3f} nats" if frozen and frozen.knowledge_loss else ""
        yield (
            f"Held-out loss is the mean cross-entropy of a token of {_knowledge_text(table)}; its "
            "change by training, in nats with its Student-t interval over seeds, starts from the "
            f"frozen backbone's{before}. Above 0 means that knowledge was lost."
        )
    if table.published:
        for row in table.rows:
            if row.variant in table.published.notes:
                yield f"`{row.variant}`: {table.published.notes[row.variant]}."


def _knowledge_text(table: Table) -> str:
    """Say what text the held-out loss was measured on."""
    name = table.record.results[0].config["eval"].get("knowledge")
    if name == "world":
        return (
            "texts of the embedded world: three sentences each, of which pre-training saw every "
            "one but never these three together"
        )
    return f"the text {name} (whether the backbone's pre-training saw it is not known here)"


_DIAGNOSIS_READING = (
    "What looks wrong, found by fixed limits in the stored numbers. These are hints to follow, "
    "not verdicts."
)


def _hints(table: Table) -> str:
    """Return what looks wrong, a kind at a time, so that what all rows share stands once."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        for finding in row.findings:
            of_kind = kinds.setdefault((finding.kind, finding.advice), [])
            of_kind.append(f"  - {row.variant}: {finding.message}")
    blocks = [
        "\n".join([f"- **{kind}**, to try: {advice}", *lines])
        for (kind, advice), lines in kinds.items()
    ]
    return "\n".join(blocks)


def _gate_reading(record: StudyRecord) -> str:
    items = {gates["items"] for result in record.results if "items" in (gates := result.gates)}
    how_many = (
        f"the first {max(items):,} test items, taken evenly from all tasks,"
        if items
        else ("test items,")
    )
    return (
        f"Over the tokens of {how_many} each followed by its right response; every gated layer "
        "counted alike; shares in %, entropy in nats (0 for closed or open gates, 0.693 for gates "
        "at one half)."
    )


_TASK_GATES_READING = "Means of the gates above over the tokens of each task's items."

_TUNING_READING = (
    "Chosen on validation data before any seed ran, with the same number of tuning trials for "
    "each row, of which the first has the row's untuned settings where they lie in the range; test "
    "data was read once, afterwards. A choice within a twentieth of its range of "
    "either end counts as an edge that was hit: the best value may lie outside the search space."
)


def _beside(table: Table) -> str:
    """Say what the comparison with the paper can and cannot tell."""
    assert table.paper is not None
    assert table.published is not None
    lines = [
        "A step is a row's difference to the reference. *In our interval* asks whether the "
        "published step lies in the 95 % interval of ours; a wide interval holds much, so `yes` "
        "is weak evidence of agreement and `no` is strong evidence against it. A dash is a number "
        "that was not published or not measured."
    ]
    if table.paper.incomparable is not None:
        lines.append(
            f"No verdicts: {table.paper.incomparable}. What stands beside the published numbers "
            "is arithmetic then, and no evidence about them."
        )
    lines.append(_order_line(table.paper.order))
    return "\n\n".join(lines)


def _order_line(order: RankAgreement | None) -> str:
    if order is None:
        return "The order of the rows cannot be compared: fewer than two have both numbers."
    said = f"Order of the {order.rows} rows that have both numbers: Kendall's tau {order.tau:+.2f}"
    if not math.isfinite(order.low):
        return f"{said} [{DASH}] (one seed; 1 is the published order, -1 its reverse)."
    return (
        f"{said} [{order.low:+.2f}, {order.high:+.2f}] (1 is the published order, -1 its "
        f"reverse; at least 95 % over {order.seeds} seeds: all orders that the paired intervals of "
        "two rows, corrected over all pairs, leave open)."
    )


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _markdown_table(cells: Cells) -> str:
    rule = ["---"] + ["---:"] * (len(cells.header) - 1)
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (cells.header, *cells.lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
