"""Rows may differ from the reference in their declared change alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gatera.errors import InputError
from gatera.studies import Study, Variant
from gatera.studies.catalog import LoadedStudy
from gatera.studies.planning.confounds import (
    differing_fields,
    undeclared_differences,
    varied_fields,
)
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan


def loaded(*variants, reference="gatera", **fields):
    return LoadedStudy("mine", Study(variants, reference, **fields), Path("mine.py"), "s" * 64)


UNGATED = {"adapter.gate": "none"}


@pytest.mark.parametrize(
    "flipped", [{"train.loss_mask": "all"}, {"train.learning_rate": 5e-3}, {"train.max_steps": 7}]
)
def test_a_setting_of_the_protocol_that_rides_along_is_refused(flipped):
    (name,) = flipped
    study = loaded(Variant("hira", UNGATED | flipped), Variant("gatera"))
    with pytest.raises(InputError, match=rf"variant hira differs .* gatera in {name} \("):
        make_plan(study, Request())


def test_a_setting_of_the_reference_alone_is_refused():
    study = loaded(Variant("hira", UNGATED), Variant("gatera", {"train.learning_rate": 5e-3}))
    said = r"variant hira .* in train.learning_rate \(0.005 -> 0.01\)"
    with pytest.raises(InputError, match=said):
        make_plan(study, Request())
    # The reference's settings count even where it is not among the chosen rows.
    with pytest.raises(InputError, match=said):
        make_plan(study, Request(variants=("hira",)))


def test_the_one_change_of_a_row_may_be_a_setting_of_the_protocol():
    study = loaded(Variant("all_tokens", {"train.loss_mask": "all"}), Variant("gatera"))
    plan = make_plan(study, Request())
    assert plan.differing("all_tokens") == {"train.loss_mask": ("answer", "all")}
    assert plan.undeclared("all_tokens") == []


def test_a_declared_confound_is_kept_for_the_report():
    changes = {"adapter.delta": "lora", "train.learning_rate": 5e-3}
    stated = Variant("lora", changes, confounds=("train.learning_rate",))
    plan = make_plan(loaded(stated, Variant("gatera")), Request())
    assert plan.confounds == {"lora": ("train.learning_rate",)}
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))).confounds == plan.confounds
    with pytest.raises(InputError, match=r"confounds names train.max_steps, which its changes do"):
        Variant("lora", changes, confounds=("train.max_steps",))


def test_several_changes_of_the_adapter_are_one_method():
    plan = make_plan(
        loaded(
            Variant("small", {"adapter.gate": "static", "adapter.r": 4}),
            Variant("no_entropy", {"train.entropy_weight": 0.0, "adapter.r": 4}),
            Variant("gatera"),
        ),
        Request(),
    )
    assert set(plan.differing("small")) == {"adapter.gate", "adapter.r"}
    assert plan.differing("gatera") == {}
    assert plan.differing("frozen") == {}


def test_a_change_to_the_references_own_value_is_no_difference():
    study = loaded(
        Variant("hira_r8", {"adapter.gate": "none", "adapter.r": 8}),
        Variant("gatera_r8", {"adapter.r": 8}),
        reference="gatera_r8",
    )
    assert set(make_plan(study, Request()).differing("hira_r8")) == {"adapter.gate"}


def test_every_field_is_compared_whatever_its_section():
    ours = {"adapter": {"r": 4, "only": 1}, "train": {"x": 2}, "backbone": {"name": "a"}}
    theirs = {"adapter": {"r": 8}, "train": {"x": 2}, "backbone": {"name": "b"}, "data": {"t": 1}}
    assert differing_fields(ours, theirs) == {
        "adapter.only": (None, 1),
        "adapter.r": (8, 4),
        "backbone.name": ("b", "a"),
        "data.t": (1, None),
    }
    found = undeclared_differences(("adapter.r", "adapter.only"), (), ours, theirs)
    assert set(found) == {"backbone.name", "data.t"}


def gatera(*arguments, cwd):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "gatera.studies", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=200
    )


FLIPPED = """\
from gatera.studies import Study, Variant

STUDY = Study(
    variants=(Variant("hira", changes={"adapter.gate": "none", FLIP}), Variant("gatera")),
    reference="gatera",
)
"""


@pytest.mark.parametrize("flip", ['"train.loss_mask": "all"', '"train.learning_rate": 0.001'])
def test_run_ends_with_2_and_names_the_field_where_plan_shows_it(tmp_path, flip):
    (tmp_path / "flipped.py").write_text(FLIPPED.replace("FLIP", flip))
    name = flip.split('"')[1]
    done = gatera("run", "flipped.py", cwd=tmp_path)
    assert done.returncode == 2
    assert f"variant hira differs from the reference gatera in {name}" in done.stderr
    assert not (tmp_path / "gatera-store").exists()
    shown = gatera("plan", "flipped.py", cwd=tmp_path)
    assert shown.returncode == 0
    assert "adapter.gate: token -> none" in shown.stdout
    assert f"{name}: " in shown.stdout
    assert "(NOT DECLARED: run refuses)" in shown.stdout
    answer = json.loads(gatera("plan", "flipped.py", "--json", cwd=tmp_path).stdout)
    assert answer["variants"]["hira"]["undeclared"] == [name]
    assert answer["variants"]["hira"]["differs"]["adapter.gate"] == ["token", "none"]


def test_a_field_varies_where_those_that_have_it_differ_in_it():
    configs = [
        {"adapter": {"gate": "token", "r": 4, "names": ["q"]}, "train": {"epochs": None}},
        {"adapter": {"gate": "none", "r": 4, "names": ["q"]}, "train": {"epochs": 1, "extra": 1}},
        {"adapter": None, "train": {"epochs": 1}},
    ]
    assert varied_fields(configs) == ["adapter.gate", "train.epochs"]
    assert varied_fields(configs[1:]) == []
