"""Gates judged: prompt against decoded tokens, layer by layer, and where gates are near zero.

The unit is the item: items that ask about the same thing, a cluster, count as one. An interval
over items speaks of the one model that was read; other seeds make other models, and what these did
is judged apart, from what the store has of every seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gatera.reports.judging.paired import (
    MeanInterval,
    PairedDifference,
    holm,
    mean_interval,
    paired_difference,
)
from gatera.training.evaluation.gated_tokens import GatedText, TokenGates
from gatera.trial import Json

LEVEL = 0.05  # of a family of tests
LOW = 0.1  # a gate below this value counts as near zero
BINS = 20  # of histograms, equal ones from 0 to 1
HIGHER, LOWER, OPEN = "higher while it writes", "lower while it writes", "not resolved"
MORE, FEWER = "more of them near zero", "fewer of them near zero"

# The paper says of attention's early layers that many gates are near zero; which layers are early
# and which modules are attention's, it does not say: the first quarter, and q, k and v.
_EARLY = 4
_EARLY_MODULES = ("q_proj", "k_proj", "v_proj", "c_attn", "query_key_value")


@dataclass(frozen=True)
class GateRow:
    """The gates of one variant's model of one seed, and what the store has of its other seeds."""

    variant: str
    seed: int
    gate: str  # its kind: "token", "static", ...
    tokens: TokenGates
    # By seed, the mean gate of response tokens less that of prompt tokens, over right responses.
    of_seeds: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def items(self) -> list[GatedText]:
        """The test items, without prompts of the user's own."""
        return [text for text in self.tokens.texts if text.task]

    @property
    def writing(self) -> list[GatedText]:
        """The items of which the model wrote more than the token that ends it."""
        return [text for text in self.items if text.decoded_tokens and text.prompt_tokens]


@dataclass(frozen=True)
class Effect:
    """One mean beside another, paired by item: of decoded and of prompt tokens, for instance."""

    variant: str
    layer: int | None  # None: all modules
    before: float  # of prompt tokens, or of all other modules
    after: float  # of decoded tokens, or of early attention
    difference: PairedDifference  # after - before
    adjusted_p: float  # Holm's over the family; NaN where there is no test
    verdict: str


@dataclass(frozen=True)
class ModuleMean:
    """What one gate does over all tokens of the test items; the mean over items of each."""

    variant: str
    layer: int | None
    module: str  # "q_proj"
    name: str  # in the base model
    mean: float
    prompt: float | None  # of prompt tokens; None where no token has a value of its own
    decoded: float | None
    near_zero: float  # share of tokens whose gate is below `LOW`
    skipped: float  # share of tokens whose update the threshold skips


@dataclass(frozen=True)
class Judged:
    """All that is said of rows."""

    rows: Sequence[GateRow]
    modules: Sequence[ModuleMean]
    overall: Mapping[str, Effect]  # variant -> over all modules; Holm over the variants
    by_layer: Mapping[str, Sequence[Effect]]  # variant -> Holm over its layers
    early: Mapping[str, Effect]  # variant -> share near zero in early attention, beside elsewhere
    over_seeds: Mapping[str, MeanInterval]  # variant -> of what the store has of every seed


def judge(rows: Sequence[GateRow]) -> Judged:
    """Judge the gates of rows."""
    asked = [row for row in rows if not row.tokens.constant]
    overall = [each for row in asked if (each := _effect(row, None)) is not None]
    early = [each for row in asked if (each := _early(row)) is not None]
    seeds = {row.variant: mean_interval(list(row.of_seeds.values())) for row in asked}
    return Judged(
        rows,
        [mean for row in rows for mean in module_means(row)],
        {each.variant: each for each in _adjusted(overall, HIGHER, LOWER)},
        {row.variant: _by_layer(row) for row in asked},
        {each.variant: each for each in _adjusted(early, MORE, FEWER)},
        {variant: found for variant, found in seeds.items() if found is not None},
    )


def module_means(row: GateRow) -> list[ModuleMean]:
    """Return what each gate of a row does, in the order of the model; empty without items."""
    items, writing = row.items, row.writing
    if not items:
        return []
    means = np.mean([text.values.mean(1, dtype=np.float64) for text in items], axis=0)
    near = np.mean([(text.values < LOW).mean(1) for text in items], axis=0)
    skipped = np.mean([text.closed.mean(1) for text in items], axis=0)
    parts = None
    if writing and not row.tokens.constant:
        parts = np.mean([_parts(text) for text in writing], axis=0)
    return [
        ModuleMean(
            row.variant,
            module.layer,
            module.kind,
            module.name,
            float(means[n]),
            None if parts is None else float(parts[0, n]),
            None if parts is None else float(parts[1, n]),
            float(near[n]),
            float(skipped[n]),
        )
        for n, module in enumerate(row.tokens.modules)
    ]


def histograms(row: GateRow) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of gates in each of `BINS` bins, of prompt tokens and of decoded ones."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    shares = []
    for part in (0, 1):
        found = [_split(text)[part].ravel() for text in row.items]
        values = np.concatenate(found) if found else np.zeros(0)
        shares.append(np.histogram(values, edges)[0] / max(1, values.size))
    return shares[0], shares[1]


def _split(text: GatedText) -> tuple[np.ndarray, np.ndarray]:
    return text.values[:, : text.prompt_tokens], text.values[:, text.prompt_tokens :]


def _parts(text: GatedText) -> np.ndarray:
    """Return the mean gate of prompt tokens and of decoded ones, (2, modules)."""
    return np.stack([part.mean(1, dtype=np.float64) for part in _split(text)])


def _effect(row: GateRow, layer: int | None) -> Effect | None:
    chosen = np.array([layer is None or each.layer == layer for each in row.tokens.modules])

    def of(text: GatedText) -> tuple[float, float]:
        before, after = _parts(text)[:, chosen].mean(1)
        return float(before), float(after)

    return _paired(row, layer, row.writing, of) if chosen.any() else None


def _by_layer(row: GateRow) -> list[Effect]:
    layers = sorted({each.layer for each in row.tokens.modules if each.layer is not None})
    found = [each for layer in layers if (each := _effect(row, layer)) is not None]
    return _adjusted(found, HIGHER, LOWER)


def early_attention(tokens: TokenGates) -> np.ndarray:
    """Return which modules are attention's q, k and v in the first quarter of layers, (modules)."""
    last = max(1, tokens.layers // _EARLY)
    return np.array(
        [
            each.layer is not None and each.layer < last and each.kind in _EARLY_MODULES
            for each in tokens.modules
        ],
        dtype=bool,
    )


def _early(row: GateRow) -> Effect | None:
    """Compare the shares near zero; None where there is nothing on one of the sides."""
    early = early_attention(row.tokens)

    def of(text: GatedText) -> tuple[float, float]:
        near = (text.values < LOW).mean(1)
        return float(near[~early].mean()), float(near[early].mean())

    return _paired(row, None, row.items, of) if early.any() and not early.all() else None


def _paired(
    row: GateRow,
    layer: int | None,
    texts: Sequence[GatedText],
    of: Callable[[GatedText], tuple[float, float]],
) -> Effect | None:
    """Compare what `of` returns of each text, (before, after), the mean of each cluster first."""
    clusters: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for text in texts:
        unit = (text.task, text.cluster or f"item {text.index}")
        clusters.setdefault(unit, []).append(of(text))
    units = np.array([np.mean(each, axis=0) for each in clusters.values()]).reshape(-1, 2)
    before, after = (dict(enumerate(column.tolist())) for column in units.T)
    difference = paired_difference(after, before)
    if difference is None:
        return None
    means = units.mean(0)
    return Effect(row.variant, layer, float(means[0]), float(means[1]), difference, math.nan, OPEN)


def _adjusted(effects: Sequence[Effect], above: str, below: str) -> list[Effect]:
    """Return effects with Holm's p over all of them, and a verdict in words."""
    tested = [n for n, each in enumerate(effects) if math.isfinite(each.difference.p)]
    found = holm([effects[n].difference.p for n in tested])
    adjusted = dict(zip(tested, found, strict=True))
    result = []
    for n, each in enumerate(effects):
        p = adjusted.get(n, math.nan)
        resolved = above if each.difference.mean > 0 else below
        verdict = resolved if p < LEVEL else OPEN
        result.append(dataclasses.replace(each, adjusted_p=p, verdict=verdict))
    return result


def effect_values(effect: Effect, before: str, after: str) -> dict[str, Json]:
    """Return an effect as JSON values, under the names of what is compared."""
    d = effect.difference

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "variant": effect.variant,
        "layer": effect.layer,
        before: effect.before,
        after: effect.after,
        "difference": d.mean,
        "low": finite(d.low),
        "high": finite(d.high),
        "p": finite(d.p),
        "p_holm": finite(effect.adjusted_p),
        "units": d.pairs,
        "verdict": effect.verdict,
    }
