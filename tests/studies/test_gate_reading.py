"""Which models the gates are read of, and what is said where there are none."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from made_up import commit_result

from gatera import cli
from gatera.errors import InputError
from gatera.studies.gate_reading import chosen_trials
from gatera.studies.store.store import Store


def trial_of(plan, variant, seed):
    return next(t for t in plan.trials if (t.variant, t.seed) == (variant, seed))


def named(trials):
    return [(trial.variant, trial.seed) for trial in trials]


@pytest.fixture
def finished(store, plan):
    for variant, seed in (("hira", 0), ("static_gate", 0), ("gatera", 1), ("gatera", 2)):
        commit_result(store, trial_of(plan, variant, seed), 0.5)
    return store


def test_all_rows_with_a_gate_are_read_each_at_its_first_finished_seed(finished, plan):
    assert named(chosen_trials(finished, plan, None, None)) == [("static_gate", 0), ("gatera", 1)]
    assert named(chosen_trials(finished, plan, None, 2)) == [("gatera", 2)]
    assert named(chosen_trials(finished, plan, ["gatera"], 2)) == [("gatera", 2)]


@pytest.mark.parametrize(
    ("variants", "seed", "said"),
    [
        (["nobody"], None, "has no variant nobody; those with a gate are static_gate, gatera"),
        (["hira"], None, "hira of made_up.tiny has no gate: its adapter.gate is none. .*--variant"),
        (["frozen"], None, "frozen of made_up.tiny has no gate: it is the untrained backbone"),
        (["gatera"], 9, "has no seed 9; it has 0, 1, 2"),
        (["gatera"], 0, "gatera of made_up.tiny, seed 0, has no finished trial .* run the study"),
    ],
)
def test_what_cannot_be_read_is_refused(finished, plan, variants, seed, said):
    with pytest.raises(InputError, match=said):
        chosen_trials(finished, plan, variants, seed)


def test_an_empty_store_and_a_study_without_gates_say_so(store, plan):
    with pytest.raises(InputError, match=r"static_gate of made_up.tiny has no finished trial"):
        chosen_trials(store, plan, None, None)
    ungated = dataclasses.replace(
        plan,
        changes={"hira": plan.changes["hira"]},
        trials=tuple(t for t in plan.trials if t.variant == "hira"),
    )
    with pytest.raises(InputError, match=r"no variant of made_up.tiny has a gate"):
        chosen_trials(store, ungated, None, None)


def test_weights_that_are_gone_are_told_from_results_that_never_were(finished, plan):
    trial = trial_of(plan, "gatera", 1)
    trained = finished.weights.recorded(trial.training_key)
    shutil.rmtree(finished.weights.adapter_folder(trained))
    again = Store(finished.folder)
    with pytest.raises(InputError, match=r"weights of gatera .*, seed 1, are no longer in"):
        chosen_trials(again, plan, ["gatera"], 1)
    assert named(chosen_trials(again, plan, ["gatera"], None)) == [("gatera", 2)]


def test_the_command_refuses_what_it_cannot_use(tmp_path, capsys):
    assert cli.main(["gates", "ablation_table5", "--store", str(tmp_path / "none")]) == 2
    assert "no store at" in capsys.readouterr().err
    Store(tmp_path / "store", create=True)
    assert cli.main(["gates", "ablation_table5", "--store", str(tmp_path / "store")]) == 2
    assert "no plan ablation_table5.tiny" in capsys.readouterr().err
