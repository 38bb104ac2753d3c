"""What is asked of a study, as the command line would ask it, and what cannot be asked."""

import pytest

from gatera.cli import _parser
from gatera.commands import _asked
from gatera.errors import InputError
from gatera.studies import Study, Variant
from gatera.studies.asking import Asked

MY_STUDY = """
from gatera.studies import Study, Variant
STUDY = Study(variants=(Variant("hira", {"adapter.gate": "none"}), Variant("gatera")),
              reference="gatera")
"""


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"scale": "small", "seeds": 2, "variants": ["hira", "gatera"], "tasks": ["boolq"]},
        {"set": {"train.max_steps": 40, "eval.limit": None, "adapter.gate": "none"}},
        {"set": {"data.train_tasks": ["world_use", "world_kin"], "train.learning_rate": 1e-3}},
        {"set": {"eval.knowledge": "one, two.txt"}},
    ],
)
def test_the_command_line_asks_the_same_in_the_words_of_a_run(asked):
    there = Asked.of("ablation_table5", **asked)
    again = _asked(_parser().parse_args(["status", *there.words]))
    assert again.request == there.request
    assert again.plan_id == there.plan_id


def test_a_study_file_is_named_by_its_path(tmp_path):
    (path := tmp_path / "mine.py").write_text(MY_STUDY)
    assert Asked.of(path).words == [str(path)]
    assert Asked.of("ablation_table5").words == ["ablation_table5"]


class MyGate:
    def __call__(self):
        """As a module of torch can be called."""


def study_with(**stated):
    variant = Variant("mine", changes=stated.pop("changes", {"train.max_steps": 3}))
    return Study(variants=(variant, Variant("gatera")), reference="gatera", title="t", **stated)


@pytest.mark.parametrize("gate", [MyGate, MyGate(), "__main__:MyGate", "my_gate:MyGate"])
@pytest.mark.parametrize("setting", ["adapter.gate", "adapter.delta"])
def test_a_class_that_is_made_here_is_refused_with_what_to_do(gate, setting):
    change = {setting: gate}
    said = f"save it in a file and name it, such as {setting}='my_gate.py:MyGate'"
    with pytest.raises(InputError, match=said):
        Asked.of("ablation_table5", set=change)
    for stated in ({"changes": change}, {"defaults": change}, {"at_scale": {"tiny": change}}):
        with pytest.raises(InputError, match=said):
            Asked.of(study_with(**stated))


def test_a_study_of_python_has_no_words_and_may_name_a_file_or_a_model():
    asked = Asked.of(study_with(defaults={"backbone.name": "hub:gpt2"}))
    assert asked.words is None
    Asked.of(study_with(changes={"adapter.gate": "my_gate.py:MyGate"}))
