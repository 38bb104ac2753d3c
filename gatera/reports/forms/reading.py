"""How the numbers of a report are read: what was computed, over what, and what it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.forms.words import DASH, setting_cell
from gatera.reports.judging.bootstrap import MIN_SEEDS
from gatera.reports.judging.comparison import Comparison
from gatera.reports.judging.paired import RankAgreement
from gatera.reports.records import StudyRecord
from gatera.reports.tables import FROZEN, Table


def of_averages(table: Table) -> str:
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


def of_differences(table: Table) -> Iterator[str]:
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
            "fit. Look at each seed's average, in the CSV of trials."
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


def of_matched(table: Table) -> Iterator[str]:
    """Say how knowledge is compared at equal accuracy, and what differs between rows beside it."""
    yield _MATCHED
    chosen = {row.variant: row.tuning.chosen for row in table.rows if row.tuning is not None}
    if len({str(settings) for settings in chosen.values()}) > 1:
        said = "; ".join(
            f"`{variant}` " + ", ".join(f"{n} {setting_cell(v)}" for n, v in settings.items())
            for variant, settings in chosen.items()
        )
        yield (
            f"Rows were tuned for accuracy, each by itself: {said}. So these differ beside the "
            "method, and a larger learning rate may cost knowledge whatever the method is."
        )


_MATCHED = (
    "The loss on held-out text, in nats a token, minus the reference's, each read where its run "
    "first reaches the highest validation accuracy that both runs of a pair reach; between two "
    "validations both are taken to change linearly. Below 0: less knowledge was lost than by the "
    "reference. Student-t interval over seeds (95 %, not adjusted); p adjusted by Holm over the "
    "rows."
)
OTHER = (
    "Scores of all outputs of a task together, in %, mean over seeds. How each was computed, or "
    "why it is missing, is in the notes. No verdict rests on them."
)
SIGNAL = (
    "How well each score tells rows apart: the standard deviation of the trained rows' averages, "
    "beside that over seeds within a row (pooled over rows), both times 100, and their ratio. "
    "Seeds alone would let the averages scatter by the second, divided by the root of their number."
)
_CLUSTERS = " Items that ask about the same thing are drawn together."


def _has_clusters(record: StudyRecord) -> bool:
    return any(label for items in record.clusters.values() for label in items.values())


def of_columns(table: Table) -> Iterator[str]:
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


def of_gates(record: StudyRecord) -> str:
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


TASK_GATES = "Means of the gates above over the tokens of each task's items."

TUNING = (
    "Chosen on validation data before any seed ran, with the same number of tuning trials for "
    "each row, of which the first has the row's untuned settings where they lie in the range; test "
    "data was read once, afterwards. A choice within a twentieth of its range of "
    "either end counts as an edge that was hit: the best value may lie outside the search space."
)


def beside_the_paper(table: Table) -> list[str]:
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
    return [*lines, _order_line(table.paper.order)]


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
