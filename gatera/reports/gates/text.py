"""What gates do, in sentences made from the numbers by rule, and in tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from gatera.reports.forms.words import DASH, p_value
from gatera.reports.gates.effects import (
    FEWER,
    HIGHER,
    LOW,
    LOWER,
    MORE,
    OPEN,
    Effect,
    GateRow,
    Judged,
    ModuleMean,
    effect_values,
)
from gatera.reports.judging.paired import MeanInterval, PairedDifference
from gatera.trial import Json

_SAID = {
    HIGHER: "higher while it writes than while it reads",
    LOWER: "lower while it writes than while it reads",
    OPEN: "not resolved between reading and writing",
}
_SAID_EARLY = {
    MORE: "more often below {low} in early attention than elsewhere",
    FEWER: "less often below {low} in early attention than elsewhere",
    OPEN: "not resolved to be below {low} more often, or less, in early attention than elsewhere",
}
PAPER = (
    "The paper reports gates that are low while the prompt is read and higher while the answer is "
    "written, and many near zero in early attention layers. How they are here:"
)
COUNTED = (
    "Counted are the tokens that the model is fed: those of the prompt, the last of which predicts "
    "the first of the answer, and each token that it decodes (as scoring does) but the last, which "
    "is fed to no layer. A gate's values are averaged over the tokens of an item, then over gates; "
    "intervals are Student's t, 95 %, over items, where items that ask about the same thing count "
    "as one. They speak of this one trained model; of seeds, the sentences that say so."
)


def findings(judged: Judged) -> list[str]:
    """Return what is to be said of each row."""
    return [sentence for row in judged.rows for sentence in _of_row(judged, row)]


def _of_row(judged: Judged, row: GateRow) -> Iterator[str]:
    name = f"`{row.variant}`"
    if row.tokens.constant:
        values = [each.mean for each in judged.modules if each.variant == row.variant]
        span = f", {min(values):.2f} to {max(values):.2f}" if values else ""
        yield (
            f"{name}: each gate has one value, whatever the token{span}; whether it differs "
            "between reading and writing is no question."
        )
        return
    effect = judged.overall.get(row.variant)
    if effect is None:
        yield f"{name}: the model wrote nothing that a gate acts on, so nothing can be compared."
    else:
        yield (
            f"{name}: gates are {_SAID[effect.verdict]}: {_change(effect.difference)} "
            f"({effect.before:.3f} reading, {effect.after:.3f} writing; {_p(effect)} over "
            f"{effect.difference.pairs} items, in the one model of seed {row.seed}). "
            f"{_layers(judged, row)}"
        )
    if (over := judged.over_seeds.get(row.variant)) is not None and over.seeds > 1:
        yield (
            f"{name}: over its {over.seeds} seeds, with the right answers in place of decoded "
            f"ones: {_change(over)}, {_sign(over)}."
        )
    if (early := judged.early.get(row.variant)) is not None:
        yield (
            f"{name}: gates are {_SAID_EARLY[early.verdict].format(low=LOW)}: "
            f"{_percent(early.after)} of those of q, k and v in the first quarter of layers, "
            f"{_percent(early.before)} of all others ({_p(early)})."
        )


def _layers(judged: Judged, row: GateRow) -> str:
    """Return in which layers what is resolved, as a sentence."""
    layers = judged.by_layer[row.variant]
    parts = []
    for verdict, word in ((HIGHER, "higher"), (LOWER, "lower"), (OPEN, "not resolved")):
        numbers = [str(each.layer) for each in layers if each.verdict == verdict]
        if numbers:
            many = "all" if len(numbers) == len(layers) else f"{len(numbers)} ({_few(numbers)})"
            parts.append(f"{word} in {many}")
    return f"Of {len(layers)} layers: {', '.join(parts)}." if parts else ""


def _few(numbers: Sequence[str]) -> str:
    return ", ".join(numbers) if len(numbers) <= 8 else f"{', '.join(numbers[:7])}, …"


def _change(d: PairedDifference | MeanInterval) -> str:
    interval = f"[{d.low:+.3f}, {d.high:+.3f}]" if math.isfinite(d.low) else f"[{DASH}]"
    return f"{d.mean:+.3f} {interval}"


def _sign(over: MeanInterval) -> str:
    """Return what an interval over seeds says of the sign."""
    if over.low > 0 or over.high < 0:
        return HIGHER if over.mean > 0 else LOWER
    return OPEN


def _p(effect: Effect) -> str:
    return "no test" if not math.isfinite(effect.adjusted_p) else f"p {p_value(effect.adjusted_p)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def values(judged: Judged) -> dict[str, list[dict[str, Json]]]:
    """Return the numbers: "effects" (layer None: all modules), "near_zero" and "modules"."""
    effects = [
        effect
        for variant, overall in judged.overall.items()
        for effect in (overall, *judged.by_layer[variant])
    ]
    return {
        "effects": [effect_values(each, "prompt", "decoded") for each in effects],
        "near_zero": [
            effect_values(each, "elsewhere", "early_attention") for each in judged.early.values()
        ],
        "modules": [dataclasses.asdict(each) for each in judged.modules],
    }


def markdown(judged: Judged, title: str, page: str, figures: Sequence[str]) -> str:
    """Return the short report.

    Args:
        judged: What was found.
        title: Its heading.
        page: Address of the page that shows each token, from the report's folder.
        figures: Addresses of the figures.
    """
    lines = [f"# {title}", "", PAPER, ""]
    lines += [f"- {sentence}" for sentence in findings(judged)]
    lines += ["", f"Token by token: [{page}]({page}).", "", COUNTED, ""]
    lines += [f"![{_caption(path)}]({path})\n" for path in figures]
    lines += ["## Reading and writing, by layer", ""]
    lines += _table(_EFFECT_HEADER, [_effect_cells(each) for each in _effects(judged)])
    lines += ["## Gates near zero in early attention", ""]
    lines += _table(_EARLY_HEADER, [_early_cells(each) for each in judged.early.values()])
    lines += ["## Each gate", ""]
    lines += _table(_MODULE_HEADER, [_module_cells(each) for each in judged.modules])
    return "\n".join(lines)


_EFFECT_HEADER = ("variant", "layer", "prompt", "decoded", "Δ [95 %]", "p, Holm", "verdict")
_EARLY_HEADER = ("variant", "early attention", "elsewhere", "Δ in points [95 %]", "verdict")
_MODULE_HEADER = ("variant", "layer", "module", "mean", "prompt", "decoded", f"below {LOW}")


def _caption(path: str) -> str:
    return "Mean gate by layer" if "by_layer" in path else "Mean gate of each module; histograms"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    if not lines:
        return ["Nothing to compare.", ""]
    rows = [header, ["---"] * len(header), *lines]
    return [*(f"| {' | '.join(cells)} |" for cells in rows), ""]


def _effects(judged: Judged) -> Iterator[Effect]:
    for variant, overall in judged.overall.items():
        yield overall
        yield from judged.by_layer[variant]


def _effect_cells(effect: Effect) -> list[str]:
    return [
        effect.variant,
        "all" if effect.layer is None else str(effect.layer),
        f"{effect.before:.3f}",
        f"{effect.after:.3f}",
        _change(effect.difference),
        DASH if not math.isfinite(effect.adjusted_p) else p_value(effect.adjusted_p),
        effect.verdict,
    ]


def _early_cells(effect: Effect) -> list[str]:
    d = effect.difference
    low, high = (f"{100 * end:+.2f}" for end in (d.low, d.high))
    interval = f"[{low}, {high}]" if math.isfinite(d.low) else f"[{DASH}]"
    return [
        effect.variant,
        _percent(effect.after),
        _percent(effect.before),
        f"{100 * d.mean:+.2f} {interval}",
        effect.verdict,
    ]


def _module_cells(each: ModuleMean) -> list[str]:
    parts = [DASH if part is None else f"{part:.3f}" for part in (each.prompt, each.decoded)]
    layer = DASH if each.layer is None else str(each.layer)
    return [
        each.variant,
        layer,
        each.module,
        f"{each.mean:.3f}",
        *parts,
        _percent(each.near_zero),
    ]
