"""What a plan will cost and what it can find: estimates, each with what it rests on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from gatera.reports.judging.paired import PairedDifference, detectable_difference
from gatera.reports.published import REPLICATED_SD, REPLICATOR
from gatera.studies.planning.gpu_cost import gpu_line
from gatera.studies.planning.plan import Plan
from gatera.studies.store.snapshot import Snapshot
from gatera.studies.study import FROZEN
from gatera.studies.views.budget import tuning_lines
from gatera.studies.views.progress import duration
from gatera.terminal import table_lines
from gatera.trial import Json

_MEASURED_SEEDS = 3  # from these on a spread says more than another benchmark's


def estimate(plan: Plan, snapshot: Snapshot | None) -> dict[str, Json]:
    """Return how long the missing trials take one after another, from those already finished.

    `seconds` is None where no trained trial of the plan has finished: nothing was measured then.
    """
    left = snapshot.unfinished if snapshot is not None else list(plan.trials)
    trained = _trained_seconds(plan, snapshot)
    if not trained:
        return {
            "seconds": None,
            "trials_left": len(left),
            "basis": "no trial of this plan has finished in the store; run one to measure",
        }
    typical = fmean(trained)
    return {
        "seconds": typical * len(left),
        "trials_left": len(left),
        "basis": f"{len(left)} trials of {typical:.1f} s, the mean of {len(trained)} finished "
        "ones, one after another",
    }


def opening_line(plan: Plan, snapshot: Snapshot, workers: int, retry: str | None = None) -> str:
    """Return what a run says first: what it will do, and how long that takes, where that is known.

    Args:
        plan: As the store has it, where it does.
        snapshot: Where its trials stand.
        workers: How many run at a time.
        retry: Trials in this state run again.
    """
    seeds = {trial.seed for trial in plan.trials if trial.variant != FROZEN}
    line = (
        f"{plan.id}: {len(plan.changes)} rows x {max(1, len(seeds))} seeds, "
        f"{len(plan.trials)} trials (frozen is one)"
    )
    if plan.tuning is not None and not plan.tuning.is_settled:
        return f"{line}, after {plan.tuning.total} tuning trials; how long is not known yet"
    again = snapshot.counts[retry] if retry is not None else 0
    if not (left := len(snapshot.unfinished) + again):
        return f"{line}, none of them left to run"
    what = "" if left == len(plan.trials) else f"{left} left to run, "
    on = f"on {workers} {'worker' if workers == 1 else 'workers'}"
    if not (trained := _trained_seconds(plan, snapshot)):
        return f"{line}, {what}{on}; how long is not known before one has finished"
    return f"{line}, {what}about {duration(fmean(trained) * math.ceil(left / workers))} {on}"


def _trained_seconds(plan: Plan, snapshot: Snapshot | None) -> list[float]:
    """Return how long each trial took that trained and has finished."""
    seconds = snapshot.trial_seconds if snapshot is not None else {}
    return [s for t in plan.trials if t.variant != FROZEN and (s := seconds.get(t.key))]


def expected_detectable_difference(
    plan: Plan, measured: PairedDifference | None = None
) -> dict[str, Json]:
    """Return the smallest difference of averages that the plan's seeds find with 80 % power.

    It rests on the spread of paired differences that the study's own results have, from
    `_MEASURED_SEEDS` on. Before that the spread is taken as that of two independent arms whose
    seeds scatter as a replicator's; pairing lowers it where seeds that suit one row suit the other.

    Args:
        plan: What is to run.
        measured: The median spread that the store's results have so far.
    """
    seeds = len({t.seed for t in plan.trials if t.variant != FROZEN})
    if measured is not None and measured.pairs >= _MEASURED_SEEDS:
        sd, assumed = measured.sd, None
        source = f"measured on {measured.pairs} seeds of this study"
    else:
        assumed = REPLICATED_SD / 100
        sd = math.sqrt(2) * assumed
        source = f"a replicator's LoRA on the commonsense benchmarks, {REPLICATOR}"
    return {
        "difference": detectable_difference(sd, seeds),
        "power": 0.8,
        "seeds": seeds,
        "sd_of_differences": sd,
        "assumed_sd_over_seeds": assumed,
        "source": source,
    }


def plan_text(plan: Plan, answer: Mapping[str, Json]) -> str:
    """Return what `plan` prints for people."""
    states = [trial["state"] for trial in answer["trials"]]
    lines = [f"{plan.id}: {plan.title}" if plan.title else plan.id]
    if plan.reproduces:
        lines.append(f"reproduces {plan.reproduces}")
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines += [f"tasks: {', '.join(plan.tasks)}", f"{len(states)} trials: {counted}", ""]
    rows = []
    for name, described in answer["variants"].items():
        seeds = [trial["seed"] for trial in answer["trials"] if trial["variant"] == name]
        changes = ", ".join(
            f"{field}: {before} -> {after}"
            + (" (NOT DECLARED: run refuses)" if field in described["undeclared"] else "")
            for field, (before, after) in described["differs"].items()
        )
        role = "(reference)" if name == plan.reference else ""
        share = f"({described['trainable_percent']:.4f} %)"
        trainable = f"{described['trainable_parameters']:,} trainable {share}"
        gpu = described["gpu"]
        cost = "" if gpu is None else f"{gpu['hours']:,.2f} h, {gpu['memory_gib']:.0f} GiB"
        rows.append(
            ("", name, f"seeds {_span(seeds)}", trainable, cost, f"{changes} {role}".strip())
        )
    lines += table_lines(rows, right={3, 4})
    if answer["tuning"] is not None:
        lines += ["", *tuning_lines(answer["tuning"])]
    lines += ["", *_reason_lines(answer["trials"]), *answer["notes"]]
    cost = answer["estimate"]
    on_gpu = [gpu_line(cost["gpu"])] if cost["gpu"] is not None else []
    return "\n".join([*lines, _cost_line(cost), *on_gpu, _power_line(answer)])


def _reason_lines(trials: Sequence[Mapping[str, Json]]) -> list[str]:
    """Return why trials stand where they do, with how many there are of each reason."""
    counted = Counter((t["reason"], t["work"]) for t in trials if t["reason"] is not None)
    return [
        f"{count} {'trial' if count == 1 else 'trials'}: {reason}"
        + (f" ({work})" if work is not None else "")
        for (reason, work), count in counted.items()
    ]


def _span(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}..{seeds[-1]}"


def _cost_line(cost: Mapping[str, Json]) -> str:
    if cost["seconds"] is None:
        return f"cost: not known ({cost['basis']})"
    return f"cost, estimated: {duration(cost['seconds'])} ({cost['basis']})"


def _power_line(answer: Mapping[str, Json]) -> str:
    power = answer["detectable_difference"]
    if power["difference"] is None:
        return "one seed: no difference can be tested"
    what, spread = "differences scatter", power["sd_of_differences"]
    if power["assumed_sd_over_seeds"] is not None:
        what, spread = "seeds scatter", power["assumed_sd_over_seeds"]
    return (
        f"with {power['seeds']} seeds a difference of {100 * power['difference']:.2f} points is "
        f"found with 80 % power, if {what} by {100 * spread:.2f} points ({power['source']})"
    )
