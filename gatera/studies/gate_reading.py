"""What the gates of a study's trained models do, token by token.

The models are loaded in this process, one after another: it needs torch, which is imported when
the first is read. Nothing in the store changes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatera.errors import InputError
from gatera.studies.asking import STORE, Asked
from gatera.studies.planning.plan import Plan
from gatera.studies.store.store import Store
from gatera.studies.study import Study
from gatera.trial import Json, Trial

if TYPE_CHECKING:
    import pandas as pd

    from gatera.reports.gates.effects import GateRow, Judged


@dataclass(frozen=True)
class Gates:
    """The gates of a study's rows: sentences, tables, and the files that were written."""

    plan: Plan
    judged: Judged
    files: tuple[Path, ...] = ()

    @property
    def findings(self) -> list[str]:
        """What the gates do, in sentences made from the numbers by rule."""
        from gatera.reports.gates.text import findings

        return findings(self.judged)

    @property
    def values(self) -> dict[str, list[dict[str, Json]]]:
        """The numbers of the tables below, as JSON values."""
        from gatera.reports.gates.text import values

        return values(self.judged)

    @property
    def map(self) -> pd.DataFrame:
        """A line a gate: its mean over all tokens, over those of prompts and of answers."""
        return self._frame("modules")

    @property
    def effects(self) -> pd.DataFrame:
        """A line a row (layer missing: all modules) and a line each layer: prompt and decoded."""
        return self._frame("effects")

    @property
    def near_zero(self) -> pd.DataFrame:
        """A line a row: the share of gates near zero in early attention, and elsewhere."""
        return self._frame("near_zero")

    def _frame(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.values[name])

    @functools.cached_property
    def tokens(self) -> pd.DataFrame:
        """A line a token of each text and row, with a column for each gate by its name."""
        import pandas as pd

        frames = []
        for row in self.judged.rows:
            names = [module.name for module in row.tokens.modules]
            for text in row.tokens.texts:
                found = pd.DataFrame(text.values.T, columns=names)
                found.insert(0, "variant", row.variant)
                found.insert(1, "task", text.task)
                found.insert(2, "index", text.index)
                found.insert(3, "position", range(len(text.tokens)))
                found.insert(4, "token", text.tokens)
                found.insert(5, "decoded", found["position"] >= text.prompt_tokens)
                frames.append(found)
        return pd.concat(frames, ignore_index=True)

    def write(self, folder: str | Path) -> tuple[Path, ...]:
        """Write the page, its text and its figures into `folder`; return the files."""
        from gatera.reports.write_gates import write_gates

        title = f"Gates of {self.plan.study} at scale {self.plan.scale}"
        return write_gates(self.judged, self.plan.id, title, Path(folder))

    def __repr__(self) -> str:
        """Return the findings."""
        return "\n".join([self.plan.id, *(f"- {sentence}" for sentence in self.findings)])


def gates(
    study: str | Path | Study,
    *,
    store: str | Path = STORE,
    variant: str | Sequence[str] | None = None,
    seed: int | None = None,
    prompt: str | Sequence[str] | None = None,
    report_dir: str | Path | None = None,
    **asked: Any,
) -> Gates:
    """Read the gates of a study's trained models, token by token, on test items.

    Args:
        study: As for `run`.
        store: The store's folder.
        variant: The row, or rows, that are read. None: all that have a gate and weights.
        seed: Whose models are read. None: of each row, the first that is done.
        prompt: A question of one's own, or several; they stand on the page beside the test items,
            and count in no number.
        report_dir: Where the page, its text and its figures go. None: nothing is written.
        asked: As for `run`.

    Raises:
        InputError: there is no such store, row or seed, or no weights, or nothing is gated.
    """
    return read_gates(
        Asked.of(study, **asked),
        Path(store),
        variants=(variant,) if isinstance(variant, str) else variant,
        seed=seed,
        prompts=(prompt,) if isinstance(prompt, str) else tuple(prompt or ()),
        report_dir=None if report_dir is None else Path(report_dir),
    )


def read_gates(
    asking: Asked,
    folder: Path,
    *,
    variants: Sequence[str] | None,
    seed: int | None,
    prompts: Sequence[str],
    report_dir: Path | None,
    say: Callable[[str], None] = lambda line: None,
) -> Gates:
    """Read the gates of what is asked, from the store in `folder`; as `gates`.

    `say` is told which model is read.
    """
    from gatera.reports.gates.effects import judge

    store = Store(folder)
    plan = store.plan(asking.plan_id)
    chosen = chosen_trials(store, plan, variants, seed)
    root, rows = asking.request.data_root, []
    for number, trial in enumerate(chosen, start=1):
        say(f"reading {trial.variant}, seed {trial.seed} ({number} of {len(chosen)})")
        rows.append(_row(store, plan, trial, prompts, root))
    rows.sort(key=lambda row: row.tokens.constant)  # what is asked of tokens comes first
    found = Gates(plan, judge(rows))
    if report_dir is None:
        return found
    return dataclasses.replace(found, files=found.write(report_dir))


def chosen_trials(
    store: Store, plan: Plan, variants: Sequence[str] | None, seed: int | None
) -> list[Trial]:
    """Return a trial of each row whose gates are read, in the order of the rows.

    Raises:
        InputError: a row or seed is not in the plan, has no gate, or has no weights.
    """
    gated = [name for name in plan.changes if _is_gated(plan.trials_of(name)[0])]
    for name in variants or ():
        if name not in plan.changes:
            raise InputError(
                f"{plan.id} has no variant {name}; those with a gate are {_list(gated)}."
            )
        if name not in gated:
            raise InputError(
                f"{name} of {plan.id} has no gate: {_ungated(plan.trials_of(name)[0])}. Variants "
                f"with one: {_list(gated)}; name one of them with --variant."
            )
    if not gated:
        raise InputError(f"no variant of {plan.id} has a gate, so there is nothing to read.")
    wanted = [name for name in gated if variants is None or name in variants]
    if seed is not None and not any(
        t.seed == seed for name in wanted for t in plan.trials_of(name)
    ):
        seeds = sorted({t.seed for name in wanted for t in plan.trials_of(name)})
        raise InputError(f"{plan.id} has no seed {seed}; it has {_list(map(str, seeds))}.")
    chosen = {name: _done(store, plan, name, seed) for name in wanted}
    missing = [name for name, trial in chosen.items() if trial is None]
    if missing and (variants is not None or len(missing) == len(wanted)):
        raise InputError(_without_weights(store, plan, missing[0], seed))
    return [trial for trial in chosen.values() if trial is not None]


def _is_gated(trial: Trial) -> bool:
    return not trial.is_frozen and trial.config["adapter"].get("gate", "none") != "none"


def _ungated(trial: Trial) -> str:
    return "it is the untrained backbone" if trial.is_frozen else "its adapter.gate is none"


def _list(names: Any) -> str:
    return ", ".join(names) or "none"


def _done(store: Store, plan: Plan, variant: str, seed: int | None) -> Trial | None:
    """Return the first trial of a row that has a result and whole weights."""
    for trial in sorted(plan.trials_of(variant), key=lambda trial: trial.seed):
        is_done = seed in (None, trial.seed) and store.result(trial.key) is not None
        if is_done and store.weights.recorded(trial.training_key) is not None:
            return trial
    return None


def _without_weights(store: Store, plan: Plan, variant: str, seed: int | None) -> str:
    trials = [trial for trial in plan.trials_of(variant) if seed in (None, trial.seed)]
    which = f"{variant} of {plan.id}" + ("" if seed is None else f", seed {seed},")
    if not any(store.result(trial.key) is not None for trial in trials):
        return f"{which} has no finished trial in {store.folder}; run the study first."
    return (
        f"the trained weights of {which} are no longer in {store.folder}; its results are. Move "
        f"trials/{trials[0].key} away and run the study again to train them anew."
    )


def _row(
    store: Store, plan: Plan, trial: Trial, prompts: Sequence[str], root: Path | None
) -> GateRow:
    from gatera.reports.gates.effects import GateRow
    from gatera.training.evaluation.token_gates import gates_of_trial

    trained = store.weights.recorded(trial.training_key)
    assert trained is not None
    folder = store.weights.adapter_folder(trained)
    read = gates_of_trial(trial, folder, data_root=root, own_prompts=prompts)
    gate = str(trial.config["adapter"]["gate"])
    return GateRow(trial.variant, trial.seed, gate, read, _of_seeds(store, plan, trial.variant))


def _of_seeds(store: Store, plan: Plan, variant: str) -> dict[int, float]:
    """Return what the survey of each finished seed found: answer tokens less prompt tokens."""
    found = {trial.seed: store.result(trial.key) for trial in plan.trials_of(variant)}
    surveys = {seed: result.gates for seed, result in found.items() if result is not None}
    return {
        seed: survey["answer"]["mean"] - survey["prompt"]["mean"]
        for seed, survey in surveys.items()
        if survey.get("answer") and survey.get("prompt")
    }
