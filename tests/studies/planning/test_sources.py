"""Files that a study names: its own gates, and texts for knowledge kept."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatera.errors import InputError
from gatera.studies import catalog
from gatera.studies.planning.configuration import parse_overrides
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan

GATE = '''\
"""A gate of the user's own; importing this file would be seen."""

raise RuntimeError("a plan must not run a gate's file")


class HalfGate:
    pass
'''
STUDY = """\
from gatera.studies import Study, Variant

STUDY = Study(
    title="Does half a gate do?",
    variants=(
        Variant("half", changes={"adapter.gate": "gates/half.py:HalfGate"}),
        Variant("gatera"),
    ),
    reference="gatera",
    seeds=(0, 1),
)
"""


@pytest.fixture
def folder(tmp_path):
    """A user's study of under 30 lines, with a gate of its own beside it."""
    (tmp_path / "mine" / "gates").mkdir(parents=True)
    (tmp_path / "mine" / "study.py").write_text(STUDY)
    (tmp_path / "mine" / "gates" / "half.py").write_text(GATE)
    return tmp_path / "mine"


def plan_of(folder, **request):
    return make_plan(catalog.load(str(folder / "study.py")), Request(**request))


def test_a_gate_of_ones_own_is_a_row(folder):
    plan = plan_of(folder)
    half = plan.trials_of("half")[0]
    assert half.config["adapter"]["gate"] == "half.py:HalfGate"
    source = (folder / "gates" / "half.py").read_bytes()
    assert half.identities["sources"] == {"adapter.gate": hashlib.sha256(source).hexdigest()}
    assert half.sources == {"adapter.gate": str(folder / "gates" / "half.py")}
    located = half.located_config["adapter"]["gate"]
    assert located == f"{folder}/gates/half.py:HalfGate"
    assert half.config["adapter"]["gate"] == "half.py:HalfGate"  # not changed by asking
    assert "sources" not in plan.trials_of("gatera")[0].identities
    assert plan.differing("half") == {"adapter.gate": ("token", "half.py:HalfGate")}
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_gates_source_is_part_of_the_key_and_its_place_is_not(folder, tmp_path):
    before = {t.variant: t.key for t in plan_of(folder).trials}
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert {t.variant: t.key for t in plan_of(moved).trials} == before
    (moved / "gates" / "half.py").write_text(GATE + "\n# another\n")
    after = {t.variant: t.key for t in plan_of(moved).trials}
    assert after["half"] != before["half"]
    assert after["gatera"] == before["gatera"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, r"adapter.gate: no file gates/half.py in "),
        ("class Other: pass\n", r"half.py defines no class HalfGate; it defines Other"),
        ("class (\n", r"half.py, line 1: .*needs valid Python"),
    ],
)
def test_a_gate_that_cannot_be_used_is_one_message(folder, source, said):
    path = folder / "gates" / "half.py"
    path.unlink()
    if source is not None:
        path.write_text(source)
    with pytest.raises(InputError, match=said):
        plan_of(folder)


def test_only_a_file_and_a_class_stand_in_for_a_name():
    said = r"adapter.gate=tokne: expected one of token, .* or path/to/file.py:ClassName"
    with pytest.raises(InputError, match=said):
        parse_overrides(["adapter.gate=tokne"])
    assert parse_overrides(["adapter.gate=a/b.py:Gate"]) == {"adapter.gate": "a/b.py:Gate"}
    assert parse_overrides(["adapter.delta=a.py:Delta"]) == {"adapter.delta": "a.py:Delta"}
    with pytest.raises(InputError, match=r"train.loss_mask=a.py:Mask: expected one of answer, all"):
        parse_overrides(["train.loss_mask=a.py:Mask"])


def test_a_path_given_on_the_command_line_leaves_no_folder_in_the_report(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    chosen = {"adapter.gate": "mine/gates/half.py:HalfGate"}
    plan = make_plan(catalog.load("ablation_table5"), Request(overrides=chosen))
    assert plan.departures == {"set": {"adapter.gate": "half.py:HalfGate"}}
    assert plan.trials_of("gatera")[0].sources["adapter.gate"].startswith(str(folder))


RUNNABLE = {
    "gates/half.py": """\
import torch
from gatera.adapter import Gate


class HalfGate(Gate):
    input_dependent = False

    def __init__(self, shape, temperature, device):
        super().__init__(shape, temperature, device)
        self.bias = torch.nn.Parameter(torch.empty(1, device=device))

    def logit(self, x, preceding):
        return self.bias.float() * 0.5
""",
    "study.py": STUDY,
}


def test_a_study_with_a_gate_of_its_own_runs_without_touching_the_package(folder):
    for name, text in RUNNABLE.items():
        (folder / name).write_text(text)
        assert text.count("\n") < 30
    short = ["--seeds", "1", "--variants", "half", "--tasks", "world_truth", "--workers", "1"]
    short += ["--set", "train.max_steps=2", "--set", "eval.limit=2"]
    done = subprocess.run(
        [sys.executable, "-m", "gatera.studies", "run", "mine/study.py", *short],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("| half |"))
    assert line.split("|")[2].strip() == "1"
    assert str(folder) not in done.stdout
    results = [json.loads(p.read_text()) for p in folder.parent.glob("*/trials/*/result.json")]
    (mine,) = [result for result in results if not is_frozen(result)]
    assert mine["config"]["adapter"]["gate"] == "half.py:HalfGate"
    assert mine["provenance"]["training"]["identities"]["sources"]["adapter.gate"]


def test_knowledge_is_measured_on_the_world_at_the_embedded_scale(plan):
    assert {t.config["eval"]["knowledge"] for t in plan.trials} == {"world"}
    assert plan.notes == ()


def small_root(tmp_path):
    folder = tmp_path / "data" / "commonsense" / "boolq"
    folder.mkdir(parents=True)
    records = [
        {
            "instruction": f"question {number}",
            "input": "",
            "output": "the correct answer is true",
            "answer": "true",
        }
        for number in range(150)
    ]
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "test.json").write_text(json.dumps([{**records[0], "instruction": "another"}]))
    return tmp_path / "data"


def is_frozen(result):
    return result["config"]["adapter"]["method"] == "frozen"


def small(study, root, **overrides):
    overrides = {"data.train_tasks": ["boolq"], **overrides}
    request = Request(scale="small", tasks=("boolq",), overrides=overrides, data_root=root)
    return make_plan(study, request)


def test_knowledge_is_measured_on_wikitext_where_it_is(study, tmp_path):
    root = small_root(tmp_path)
    without = small(study, root)
    assert {t.config["eval"]["knowledge"] for t in without.trials} == {None}
    assert "pass --set eval.knowledge=FILE" in without.notes[0]
    with pytest.raises(InputError, match=r"no wikitext/test.txt under the data root"):
        small(study, root, **{"eval.knowledge": "wikitext"})
    (root / "wikitext").mkdir()
    (root / "wikitext" / "test.txt").write_text("some text")
    found = small(study, root)
    trial = found.trials[0]
    assert trial.config["eval"]["knowledge"] == "wikitext"
    assert trial.located_config["eval"]["knowledge"] == str(root / "wikitext" / "test.txt")
    assert found.notes == ()
    assert {t.key for t in found.trials}.isdisjoint(t.key for t in without.trials)


def test_knowledge_is_measured_on_a_text_of_ones_own(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("some text")
    root = small_root(tmp_path)
    trial = small(study, root, **{"eval.knowledge": "mine.txt"}).trials[-1]
    assert trial.config["eval"]["knowledge"] == "mine.txt"
    assert trial.located_config["eval"]["knowledge"] == str(tmp_path / "mine.txt")
    Path("mine.txt").write_text("another text")
    assert small(study, root, **{"eval.knowledge": "mine.txt"}).trials[-1].key != trial.key
    with pytest.raises(InputError, match=r"eval.knowledge: no file yours.txt in "):
        small(study, root, **{"eval.knowledge": "yours.txt"})
