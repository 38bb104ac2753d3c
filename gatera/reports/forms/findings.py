"""What a report found, in sentences made from its numbers by rule; the words are the verdicts'.

Each sentence has its numbers and their interval. What a paper measured on another model is set
beside ours, and nothing is said of whether it holds.
"""

from __future__ import annotations

import math
import statistics as basic
from collections.abc import Iterator, Mapping, Sequence

from scipy import stats

from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.forms.words import between, p_value, points_of, share_of
from gatera.reports.judging.comparison import Comparison, median_spread
from gatera.reports.judging.paired import detectable_difference, mean_interval
from gatera.reports.tables import FROZEN, Table

_NAMED = 3  # differences that are named one by one, of those that are resolved or are not
_LOSS = 0.02  # of the endpoint: what skipping updates may cost at most to be named
_NOISE_SEEDS = 3  # from these on a spread over seeds says something


def findings(table: Table) -> list[str]:
    """Return the sentences that stand before everything else in a report."""
    parts = (_matched, _verdicts, _skipping, _gain, _limits, _published, _noise)
    return [sentence for part in parts for sentence in part(table)]


def _unit(table: Table) -> str:
    endpoint = ENDPOINTS[table.record.endpoint]
    return "points" if endpoint.is_published else endpoint.unit


def _verdicts(table: Table) -> Iterator[str]:
    """Say which differences are resolved, and between what the others lie."""
    tested = table.tested
    if not tested:
        yield (
            f"Nothing can be compared yet: no row shares a finished seed with "
            f"`{table.record.reference}`."
        )
        return
    resolved = [name for name, each in tested.items() if each.verdict == "resolved"]
    resolved.sort(key=lambda name: -abs(tested[name].difference.mean))
    for name in resolved[:_NAMED]:
        each = tested[name]
        yield (
            f"{_said(table, name, each)} (95 % interval {_interval(each)}, "
            f"{each.difference.pairs} seeds): resolved, p {p_value(each.adjusted_p)}."
        )
    if more := [tested[name] for name in resolved[_NAMED:]]:
        yield f"{len(more)} more are resolved: {_range(more, _unit(table))}."
    yield from _not_resolved(table, {n: c for n, c in tested.items() if n not in resolved})


def _said(table: Table, name: str, each: Comparison) -> str:
    """Return what a difference says, as the beginning of a sentence."""
    mean, unit = each.difference.mean, _unit(table)
    if table.contrasts:
        return f"*{name}*: {points_of(mean)} {unit}"
    side = "above" if mean > 0 else "below"
    return f"`{name}` is {100 * abs(mean):.2f} {unit} {side} `{table.record.reference}`"


def _not_resolved(table: Table, left: Mapping[str, Comparison]) -> Iterator[str]:
    """Say what is left open, and why where nothing was tested."""
    unit = _unit(table)
    if single := [each for each in left.values() if each.difference.pairs == 1]:
        yield f"One seed tests nothing: {_range(single, unit)}, with no interval over seeds."
    undecided = {n: c for n, c in left.items() if math.isfinite(c.adjusted_p) and not c.diverged}
    if 0 < len(undecided) <= _NAMED:
        named = "; ".join(
            f"{_name(table, name)} {points_of(each.difference.mean)} [{_interval(each)}]"
            for name, each in undecided.items()
        )
        yield f"Not resolved, in {unit} with 95 % intervals: {named}."
    elif undecided:
        which = "All" if len(undecided) == len(table.tested) else "The other"
        to = "" if table.contrasts else f" to `{table.record.reference}`"
        differences = _range(list(undecided.values()), unit)
        yield f"{which} {len(undecided)} differences{to} are not resolved: {differences}."
    for name, each in left.items():
        said = f"No verdict on {_name(table, name)}: {points_of(each.difference.mean)} {unit}"
        if each.diverged:
            yield f"{said} [{_interval(each)}] over the seeds that did not diverge."
        elif each.difference.sd == 0 and _same_trials(table, each):
            yield f"{said}: its {each.difference.pairs} seeds are the same trials, run once."
        elif each.difference.sd == 0:
            yield f"{said} over {each.difference.pairs} seeds, without any spread."


def _same_trials(table: Table, each: Comparison) -> bool:
    """Return whether rows that are compared came to the same settings, and so to one result."""
    rows = [row for row in table.record.rows if row.variant in each.weights]
    keys = [{seed: result.key for seed, result in row.results.items()} for row in rows]
    return all(found == keys[0] for found in keys)


def _name(table: Table, name: str) -> str:
    return f"*{name}*" if table.contrasts else f"`{name}`"


def _range(compared: Sequence[Comparison], unit: str) -> str:
    """Return between what differences lie, and how far their intervals reach."""
    means = [each.difference.mean for each in compared]
    ends = [
        end
        for each in compared
        for end in (each.difference.low, each.difference.high)
        if math.isfinite(end)
    ]
    said = f"{points_of(min(means))} to {points_of(max(means))} {unit}"
    if not ends:
        return said
    return f"{said}, 95 % intervals within {points_of(min(ends))} to {points_of(max(ends))}"


def _interval(each: Comparison) -> str:
    return between(each.difference.low, each.difference.high)


def _matched(table: Table) -> Iterator[str]:
    """Say what was lost of pre-trained knowledge at equal accuracy."""
    reference = table.record.reference
    for name, each in table.matched.items():
        d = each.difference
        if not math.isfinite(d.low):
            continue
        verdict = (
            f"{each.verdict}, p {p_value(each.adjusted_p)}"
            if math.isfinite(each.adjusted_p)
            else "not tested"
        )
        yield (
            f"At the accuracy that both reach ({share_of(each.accuracy)}), `{name}` has a held-out "
            f"loss {abs(d.mean):.3f} nats a token {'above' if d.mean > 0 else 'below'} that of "
            f"`{reference}` (95 % interval {d.low:+.3f} to {d.high:+.3f}, {d.pairs} seeds): "
            f"{verdict}."
        )


def _skipping(table: Table) -> Iterator[str]:
    """Say which row skips most updates of those whose interval excludes a loss that matters."""
    found = [
        (float(skipped), row.variant, row.comparison)
        for row in table.rows
        if (skipped := row.gates.get("overall", {}).get("share_skipped"))
        and row.comparison is not None
        and row.comparison.difference.low > -_LOSS  # false of an interval that is not there
    ]
    if found:
        skipped, name, compared = max(found, key=lambda each: each[0])
        yield (
            f"Of the rows whose interval excludes a loss of {100 * _LOSS:g} {_unit(table)}, "
            f"`{name}` skips most: {share_of(skipped)} of its updates, at "
            f"{points_of(compared.difference.mean)} [{_interval(compared)}]."
        )


def _gain(table: Table) -> Iterator[str]:
    """Say what training gained over the frozen backbone."""
    frozen, row = table.row(FROZEN), table.row(table.record.reference)
    if frozen is None or row is None or frozen.average is None or not row.average_by_seed:
        return
    found = mean_interval(list(row.average_by_seed.values()))
    if found is None or not math.isfinite(found.low):
        return
    yield (
        f"`{row.variant}` scores {100 * found.mean:.2f} (95 % interval over seeds "
        f"{100 * found.low:.2f} to {100 * found.high:.2f}), the frozen backbone "
        f"{100 * frozen.average:.2f}."
    )


def _limits(table: Table) -> Iterator[str]:
    """Say what these seeds cannot tell."""
    middle = median_spread(each.difference for each in table.tested.values())
    detectable = None if middle is None else detectable_difference(middle.sd, middle.pairs)
    if middle is None or detectable is None:
        return
    yield (
        f"These {middle.pairs} seeds cannot tell small differences: with this spread, one of "
        f"{100 * detectable:.2f} {_unit(table)} is found with 80 % power, and the median 95 % "
        f"interval reaches {50 * (middle.high - middle.low):.2f} to either side."
    )


def _published(table: Table) -> Iterator[str]:
    """Say what the paper has for the same comparison, beside ours."""
    if table.paper is None or table.published is None:
        return
    beside = [
        (row, found)
        for row in table.paper.rows
        if row.step is not None
        and (found := table.row(row.variant)) is not None
        and found.comparison is not None
        and math.isfinite(found.comparison.difference.low)
    ]
    if not beside:
        return
    row, found = max(beside, key=lambda each: abs(each[0].step or 0.0))
    assert found.comparison is not None
    inside = sum(bool(each.step_inside) for each, _ in beside)
    lie = "lies in our intervals" if inside == 1 else "lie in our intervals"
    said = (
        f"The paper's largest step, `{row.variant}` {points_of(row.step or 0.0)} to "
        f"`{table.record.reference}`, stands beside {points_of(found.comparison.difference.mean)} "
        f"[{_interval(found.comparison)}] here; {inside} of its {len(beside)} steps {lie}"
    )
    if table.paper.incomparable is None:
        yield f"{said}."
    else:
        yield f"{said}. It was measured on {table.published.model}: beside it, this is no test."


def _noise(table: Table) -> Iterator[str]:
    """Say how far two runs lie apart that differ by their seed alone.

    The mean distance of two draws from a normal distribution is 2 / √π of its deviation.
    """
    row = table.row(table.record.reference)
    if row is None or len(row.average_by_seed) < _NOISE_SEEDS:
        return
    averages = list(row.average_by_seed.values())
    n, sd = len(averages), basic.stdev(averages)
    if not sd > 0:
        return
    low, high = (sd * math.sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    apart, least, most = (100 * 2 / math.sqrt(math.pi) * each for each in (sd, low, high))
    steps = [abs(r.step) for r in (table.paper.rows if table.paper else ()) if r.step is not None]
    smaller = sum(100 * step < apart for step in steps)
    are = "is" if smaller == 1 else "are"
    published = f"; {smaller} of the {len(steps)} published steps {are} smaller" if steps else ""
    yield (
        f"Noise: two runs of `{row.variant}` that differ by seed alone lie {apart:.2f} "
        f"{_unit(table)} apart on average (95 % interval {least:.2f} to {most:.2f}){published}."
    )
