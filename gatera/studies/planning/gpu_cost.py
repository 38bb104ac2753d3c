"""What a plan would cost on a GPU, computed before anything has run: hours and memory.

The hours are a count of operations over a rate, and so is memory a sum over shapes
(`gatera.training.computation` has the formulas):

    training = steps x batch size x tokens x operations a token, trained           / rate
    reading  = test items x tokens x operations a token, forward x passes          / rate
    writing  = batches of items x tokens written x the time of one decoding step

where an item with options is read twice, once to weigh them, and a decoding step takes as long as
reading the weights once, or computing for all sequences of the batch, whichever is longer. All
answers count as long as they may be. Loading a model and the text for the loss on held-out text are
left out. Items and their tokens are `gatera.tasks.extents`'.

The rate is a third of the card's peak. Steps of a LLaMA-3-8B in bfloat16, 4 x 512 tokens, on an
H100 reached, by the same count, 0.37 of it with LoRA (173 ms), 0.40 with HiRA (257 ms), and 0.31
with GateRA (395 ms).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gatera import tasks
from gatera.studies.planning.plan import Plan
from gatera.tasks.extents import EXTENTS, Extent
from gatera.trial import Json, Trial

_ACHIEVED = 1 / 3  # of the peak rates


@dataclass(frozen=True)
class Gpu:
    """A card, by its peak rates."""

    name: str
    flops: float  # a second, dense, in bfloat16
    bytes_per_second: float  # of its memory


H100 = Gpu("H100", 989e12, 3.35e12)


@dataclass(frozen=True)
class TrialCost:
    """What one trial of a row takes."""

    training_seconds: float
    scoring_seconds: float
    memory_bytes: float

    @property
    def hours(self) -> float:
        """Training and scoring together."""
        return (self.training_seconds + self.scoring_seconds) / 3600

    def to_json(self) -> dict[str, float]:
        """Return the hours and the memory of one trial."""
        return {"hours": self.hours, "memory_gib": self.memory_bytes / 2**30}


@dataclass(frozen=True)
class GpuCost:
    """What a plan takes."""

    gpu: str
    hours: float  # of all trials, tuning trials included, one after another
    of_rows: Mapping[str, TrialCost]
    is_counted: bool  # whether the length of all items was counted, and not assumed

    @property
    def memory_bytes(self) -> float:
        """Of the row that needs most."""
        return max(cost.memory_bytes for cost in self.of_rows.values())


def gpu_cost(
    plan: Plan, computations: Mapping[str, Mapping[str, float]], gpu: Gpu = H100
) -> GpuCost | None:
    """Return what a plan would take on a GPU; None where the size of its data is not known.

    Args:
        plan: What is to run.
        computations: By row, the fields of `gatera.training.computation.Computation`.
        gpu: The card.
    """
    extents = _extents(plan)
    if extents is None:
        return None
    rows = {name: plan.trials_of(name)[0] for name in plan.changes}
    costs = {name: _Row(trial, computations[name], gpu).cost() for name, trial in rows.items()}
    trained = {trial.training_key: trial.variant for trial in plan.trials}
    scored = {trial.key: trial.variant for trial in plan.trials}
    seconds = sum(costs[variant].training_seconds for variant in trained.values())
    seconds += sum(costs[variant].scoring_seconds for variant in scored.values())
    if (tuning := plan.tuning) is not None:
        for variant in tuning.rows:
            row = _Row(rows[variant], computations[variant], gpu)
            seconds += tuning.trials * tuning.seeds * row.training_seconds(tuning.steps)
    return GpuCost(gpu.name, seconds / 3600, costs, all(each.is_counted for each in extents))


def _extents(plan: Plan) -> list[Extent] | None:
    """Return the sizes of all that a plan reads; None where one is not known."""
    found: list[Extent | None] = []
    for trial in {t.variant: t for t in plan.trials}.values():
        data = trial.config["data"]
        found += [EXTENTS.get(name, {}).get("test") for name in data["tasks"]]
        found += [EXTENTS.get(name, {}).get("train") for name in data.get("train_tasks", ())]
    known = [each for each in found if each is not None]
    return known if known and len(known) == len(found) else None


class _Row:
    """The costs of one row's trials."""

    def __init__(self, trial: Trial, computation: Mapping[str, float], gpu: Gpu) -> None:
        self._trial, self._config, self._of = trial, trial.config, computation
        self._flops = _ACHIEVED * gpu.flops
        self._bytes = _ACHIEVED * gpu.bytes_per_second

    def cost(self) -> TrialCost:
        scoring = sum(self._scoring_seconds(task) for task in self._config["data"]["tasks"])
        training = 0.0 if self._trial.is_frozen else self.training_seconds(None)
        return TrialCost(training, scoring, self._memory_bytes())

    def training_seconds(self, steps: int | None) -> float:
        """Return the seconds of a training, of its own steps or of so many."""
        train = self._config["train"]
        extents = [EXTENTS[name]["train"] for name in self._config["data"]["train_tasks"]]
        items = sum(each.items for each in extents)
        tokens = min(_mean((e.tokens, e.items) for e in extents), train["max_tokens"])
        if steps is None:
            steps = train["max_steps"] or math.ceil(train["epochs"] * items / train["batch_size"])
        passes = 4 if train["gradient_checkpointing"] else 3  # through attention; one is forward
        a_token = self._of["training_flops"] + passes * self._of["attention_flops"] * tokens
        flops = steps * train["batch_size"] * tokens * a_token
        flops += steps * train["accumulation"] * self._of["pass_flops"]
        validations = steps // train["validation_every"]
        return float(flops / self._flops + validations * self._validation_seconds(tokens))

    def _validation_seconds(self, tokens: float) -> float:
        train = self._config["train"]
        items, at_once = train["validation_items"], train["validation_batch_size"]
        seconds = self._reading_seconds(items, tokens)
        if train["validation_method"] == "generate":
            written = math.ceil(items / at_once) * train["validation_max_new_tokens"]
            seconds += written * self._step_seconds(min(items, at_once))
        return seconds

    def _scoring_seconds(self, name: str) -> float:
        task, extent, how = tasks.find(name), EXTENTS[name]["test"], self._config["eval"]
        items = min(extent.items, how["limit"] or extent.items)
        has_options = task.chance is not None
        writes = how["method"] == "generate" or not has_options
        passes = has_options + writes
        seconds = passes * self._reading_seconds(items, extent.prompt_tokens)
        if writes:
            written = max(how["max_new_tokens"], task.max_new_tokens)
            batches = math.ceil(items / how["batch_size"])
            sequences = min(items, how["batch_size"]) * how["beams"]
            seconds += batches * written * self._step_seconds(sequences)
        return seconds

    def _reading_seconds(self, items: int, tokens: float) -> float:
        a_token = self._of["forward_flops"] + self._of["attention_flops"] * tokens
        return items * tokens * a_token / self._flops

    def _step_seconds(self, sequences: int) -> float:
        """Return the seconds in which each of so many sequences gets one token more."""
        computing = sequences * self._of["forward_flops"] / self._flops
        return max(computing, self._of["read_bytes"] / self._bytes)

    def _memory_bytes(self) -> float:
        """Return the most that a training holds: in a batch whose items are as long as may be.

        Of the frozen backbone that is its weights.
        """
        train = self._config["train"]
        if self._trial.is_frozen:
            return self._of["weight_bytes"]
        tokens = train["batch_size"] // train["accumulation"] * train["max_tokens"]
        logits = min(tokens, self._of["loss_tokens"]) * self._of["logits_bytes"]
        kept = tokens * self._of["kept_bytes"]
        return self._of["weight_bytes"] + self._of["trained_bytes"] + float(kept + logits)


def _mean(weighed: Iterable[tuple[float, int]]) -> float:
    """Return the mean of values, each with its weight."""
    pairs = list(weighed)
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)


def described(cost: GpuCost | None) -> dict[str, Json] | None:
    """Return what JSON says of it: hours, and the memory of the row that needs most, in GiB."""
    if cost is None:
        return None
    return {
        "gpu": cost.gpu,
        "hours": cost.hours,
        "memory_gib": cost.memory_bytes / 2**30,
        "items_counted": cost.is_counted,
    }


def gpu_line(of_plan: Mapping[str, Json]) -> str:
    """Return the line that `plan` prints, given what `described` returned."""
    lengths = "counted" if of_plan["items_counted"] else "partly assumed"
    return (
        f"on a GPU, computed and not measured: {of_plan['hours']:,.1f} hours of one "
        f"{of_plan['gpu']} at a third of its peak, at most {of_plan['memory_gib']:.0f} GiB "
        f"(the length of items is {lengths})"
    )
