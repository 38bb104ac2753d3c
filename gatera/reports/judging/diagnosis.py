"""What looks wrong in a row, named, with what to try. Reads the record and nothing else.

The gate signatures are those that GateRA (arXiv:2511.17582) reports; the limits are ours and stand
here by name. A finding is a hint, not a verdict: a row may be as it should and still have one.
"""

from __future__ import annotations

import statistics as basic
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gatera.reports.records import Curves, RowRecord
from gatera.trial import Json

UNDECIDED_ENTROPY = 0.65  # nats, mean over tokens; ln 2 = 0.693 is every gate at one half
NEARLY_ALL = 0.9  # share of gates beyond 0.1 or 0.9 that counts as all of them
SCATTER = 0.03  # standard deviation over seeds; others report 0.007 to 0.008 on real benchmarks
SCATTER_SEEDS = 3  # from this many on a spread says anything
UNTRAINED_GAIN = 0.01  # above the frozen backbone, plain mean over tasks
SILENT_SHARE = 0.01  # outputs of one task without an answer keyword
_ENDS = 10  # first and last tenth of the training steps, compared for divergence
_MIN_POINTS = 20  # steps below which their noise hides any trend


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong in a row."""

    kind: str  # a fixed word, such as gates_collapsed
    message: str  # what was seen, with its number
    advice: str  # what to try


def diagnose(
    row: RowRecord,
    *,
    averages: Mapping[int, float],
    frozen: float | None,
    gates: Mapping[str, Json],
    no_keyword: Mapping[str, float | None],
) -> tuple[Finding, ...]:
    """Return what looks wrong in a trained row, most telling first.

    Args:
        row: Its trials and tuning.
        averages: Its average by seed.
        frozen: Average of the untrained backbone; None where it has none.
        gates: Gate statistics, mean over seeds; empty where nothing is gated.
        no_keyword: By task, share of outputs without an answer keyword.
    """
    found = [
        *_diverged(row),
        *_untrained(averages, frozen),
        *(_gate_signature(gates["overall"]) if gates else ()),
        *_scatter(averages, gated=bool(gates)),
        *_edges(row),
        *_truncated(row),
        *_silent(no_keyword),
    ]
    return tuple(found)


def _diverged(row: RowRecord) -> Iterator[Finding]:
    broken = [str(t.seed) for t in row.trials if t.failure_kind == "not_finite"]
    rising = [str(t.seed) for t in row.trials if t.result is not None and _rose(t.curves)]
    for seeds, what in ((broken, "met a NaN or an infinity"), (rising, "ended above its start")):
        if seeds:
            yield Finding(
                "diverged",
                f"the training loss of seed {', '.join(seeds)} {what}",
                "lower train.learning_rate, lengthen train.warmup_steps or clip gradients",
            )


def _rose(curves: Curves) -> bool:
    """Return whether the loss of the last steps is above that of the first."""
    losses = [loss for _, loss in curves.train_loss]
    if len(losses) < _MIN_POINTS:
        return False
    part = len(losses) // _ENDS
    return basic.fmean(losses[-part:]) > basic.fmean(losses[:part])


def _untrained(averages: Mapping[int, float], frozen: float | None) -> Iterator[Finding]:
    if not averages or frozen is None:
        return
    gain = basic.fmean(averages.values()) - frozen
    if gain <= UNTRAINED_GAIN:
        yield Finding(
            "untrained",
            f"the average is {100 * gain:+.2f} points from the frozen backbone's: nothing was "
            "learned that the test items show",
            "train longer (train.max_steps), raise train.learning_rate, look at the training loss",
        )


def _gate_signature(overall: Mapping[str, float]) -> Iterator[Finding]:
    if overall["entropy"] >= UNDECIDED_ENTROPY:
        yield Finding(
            "gates_undecided",
            f"gates stay near one half (mean {overall['mean']:.3f}, entropy "
            f"{overall['entropy']:.3f} of at most 0.693 nats)",
            "raise train.entropy_weight or train.learning_rate, train longer, lower "
            "adapter.gate_temperature",
        )
    elif overall["share_below_0.1"] >= NEARLY_ALL:
        yield Finding(
            "gates_collapsed",
            f"{100 * overall['share_below_0.1']:.1f} % of the gates are below 0.1: the update "
            "reaches next to no token",
            "lower train.entropy_weight, raise adapter.gate_bias",
        )
    elif overall["share_above_0.9"] >= NEARLY_ALL:
        yield Finding(
            "gates_ignored",
            f"{100 * overall['share_above_0.9']:.1f} % of the gates are above 0.9: the row is "
            "nearly the one without a gate",
            "raise adapter.gate_temperature, lower adapter.gate_bias or train.entropy_weight",
        )


def _scatter(averages: Mapping[int, float], *, gated: bool) -> Iterator[Finding]:
    if len(averages) < SCATTER_SEEDS:
        return
    spread = basic.stdev(averages.values())
    if spread > SCATTER:
        worst = min(averages, key=lambda seed: averages[seed])
        start = "check the initialization of the gate (adapter.gate_init_std), " if gated else ""
        yield Finding(
            "seeds_scatter",
            f"seeds scatter by {100 * spread:.2f} points (standard deviation), lowest seed {worst} "
            f"at {100 * averages[worst]:.2f} %",
            f"{start}lower train.learning_rate, train longer, run more seeds",
        )


def _edges(row: RowRecord) -> Iterator[Finding]:
    if row.tuning is not None and row.tuning.edges:
        chosen = [f"{name} = {row.tuning.chosen.get(name)}" for name in row.tuning.edges]
        yield Finding(
            "tuning_edge",
            f"tuning chose an edge of its search space: {', '.join(chosen)}",
            "widen the search space beyond that edge and tune again",
        )


_CUTS: Mapping[str, tuple[str, str]] = {
    "training": ("training prompts were cut", "raise train.max_tokens"),
    "scoring": (
        "test prompts were cut",
        "use a backbone with a longer context, or lower eval.max_new_tokens",
    ),
}


def _truncated(row: RowRecord) -> Iterator[Finding]:
    for part, (what, advice) in _CUTS.items():
        cut = [r.parts.get(part, {}).get("truncated_items", 0) for r in row.results.values()]
        worst = max(cut, default=0)
        if worst:
            yield Finding("truncated", f"{worst} {what}", advice)


def _silent(no_keyword: Mapping[str, float | None]) -> Iterator[Finding]:
    silent = {task: share for task, share in no_keyword.items() if (share or 0) > SILENT_SHARE}
    if silent:
        worst = max(silent, key=lambda task: silent[task] or 0)
        others = f", and more than {100 * SILENT_SHARE:.0f} % of {len(silent) - 1} other tasks'"
        yield Finding(
            "no_keyword",
            f"{100 * (silent[worst] or 0):.2f} % of the outputs of {worst}"
            f"{others if len(silent) > 1 else ''} hold no answer keyword and count as wrong",
            "train longer, raise eval.max_new_tokens, read the outputs in the predictions",
        )
