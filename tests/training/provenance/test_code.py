"""Which code a trial's result depends on."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gatera
from gatera.training.provenance import code
from gatera.training.provenance import package as package_source
from gatera.training.provenance.code import (
    changed_files,
    files_sha256,
    scoring_code,
    training_code,
    tree_sha256,
)
from gatera.training.provenance.package import Package

PACKAGE = Path(gatera.__file__).parent

CONFIG: dict[str, Any] = {
    "backbone": {"name": "tiny"},
    "adapter": {
        "method": "gatera",
        "delta": "hira",
        "gate": "token",
        "gate_sharing": "module",
        "r": 4,
    },
    "train": {"max_steps": 1},
    "eval": {"method": "generate", "knowledge": None},
    "data": {
        "template": "alpaca",
        "tasks": ["world_truth", "world_use"],
        "train_tasks": ["world_truth", "world_use"],
    },
}
FROZEN = {**CONFIG, "adapter": {"method": "frozen"}}


def changed(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return `config` with "section_field" set."""
    new = copy.deepcopy(config)
    for name, value in fields.items():
        section, _, field = name.partition("_")
        new[section][field] = value
    return new


LORA = changed(CONFIG, adapter_delta="lora")
HILORA = changed(CONFIG, adapter_delta="hilora")
UNGATED = changed(CONFIG, adapter_gate="none")
REAL = changed(CONFIG, data_tasks=["boolq", "piqa"], data_train_tasks=["commonsense_170k"])


class Copy:
    """A copy of the package that can be changed, and whose code is asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "gatera"
        self._monkeypatch = monkeypatch
        ignored = shutil.ignore_patterns("__pycache__", "tiny_weights", "studies", "reports")
        shutil.copytree(PACKAGE, self.folder, ignore=ignored)

    def write(self, path: str, text: str) -> None:
        """Write a file of the copy."""
        (self.folder / path).write_text(text, encoding="utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace the first `old` in a file of the copy."""
        text = (self.folder / path).read_text(encoding="utf-8")
        assert old in text
        self.write(path, text.replace(old, new, 1))

    def code(self, config: dict[str, Any]) -> dict[str, str]:
        """Return all code of a trial as the copy stands now."""
        package = Package(self.folder)
        with self._monkeypatch.context() as patch:
            patch.setattr(code, "_package", lambda: package)
            return training_code(config) | scoring_code(config)

    def changed_by(self, change: Callable[[], None], config: dict[str, Any]) -> list[str]:
        """Return the files that a change makes differ for a configuration."""
        before = self.code(config)
        change()
        return changed_files(before, self.code(config))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    return Copy(tmp_path, monkeypatch)


LOSSES = "training/optimization/losses.py"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from __future__", "# A comment.\n\nfrom __future__"),
        ("from torch import Tensor", "from torch import Tensor as Tensor"),
        ("import torch\n", "import torch\nimport os as system\n"),
        ("def step_loss", '"""Above a function."""\n\n\ndef step_loss'),
    ],
)
def test_another_wording_changes_nothing(package: Copy, old: str, new: str) -> None:
    assert package.changed_by(lambda: package.replace(LOSSES, old, new), CONFIG) == []


def test_another_docstring_changes_nothing(package: Copy) -> None:
    docstring = '"""What training minimizes: the loss on tokens plus λ times'

    def change() -> None:
        package.replace(LOSSES, docstring, '"""Losses.\n\nIn nats.\n')

    assert package.changed_by(change, CONFIG) == []


def test_a_change_of_what_is_computed_changes_its_file_alone(package: Copy) -> None:
    def change() -> None:
        package.replace(LOSSES, "\ndef ", "\nHALF = 0.5\n\n\ndef ")

    for config in (CONFIG, LORA, REAL):
        before = package.code(config)
        assert package.changed_by(change, config) == ["gatera/training/optimization/losses.py"]
        assert files_sha256(before) != files_sha256(package.code(config))
        package.replace(LOSSES, "\nHALF = 0.5\n\n\ndef ", "\ndef ")
        assert package.code(config) == before
    assert package.changed_by(change, FROZEN) == []  # which nothing trains


UPDATE = '''"""An update of ours."""

from gatera.adapter.updates.lora import Lora


class Half(Lora):
    pass
'''


def test_a_new_update_changes_nothing_for_the_others(package: Copy) -> None:
    def change() -> None:
        table = "adapter/updates/__init__.py"
        package.write("adapter/updates/half.py", UPDATE)
        package.replace(table, '    "lora": Lora,', '    "half": Half,\n    "lora": Lora,')
        package.replace(table, "\nDELTAS", "from gatera.adapter.updates.half import Half\n\nDELTAS")

    others = (CONFIG, LORA, HILORA, UNGATED, FROZEN, REAL)
    before = [package.code(config) for config in others]
    half = changed(CONFIG, adapter_delta="half")
    assert "gatera/adapter/updates/half.py" in package.changed_by(change, half)
    assert [package.code(config) for config in others] == before
    assert "gatera/adapter/updates/lora.py" in package.code(half)
    assert "gatera/adapter/updates/hira.py" not in package.code(half)


def test_a_new_gate_changes_nothing_for_the_others(package: Copy) -> None:
    def change() -> None:
        table = "adapter/gates/__init__.py"
        package.write("adapter/gates/open.py", UPDATE.replace("updates.lora", "gates.base"))
        package.replace(table, '    "none": None,', '    "none": None,\n    "open": OpenGate,')
        package.replace(table, "\nGATES", "from gatera.adapter.gates.open import OpenGate\n\nGATES")

    others = (CONFIG, LORA, UNGATED, FROZEN, REAL)
    before = [package.code(config) for config in others]
    gated = changed(CONFIG, adapter_gate="open")
    assert "gatera/adapter/gates/open.py" in package.changed_by(change, gated)
    assert [package.code(config) for config in others] == before


def test_a_new_benchmark_changes_nothing_for_the_others(package: Copy) -> None:
    def change() -> None:
        package.replace(
            "tasks/benchmarks/commonsense.py",
            '    "piqa": ',
            '    "csqa": Benchmark("csqa", "csqa", _numbered("answer", 5), 1 / 5),\n    "piqa": ',
        )
        package.replace(
            "tasks/benchmarks/commonsense_hub.py",
            "\ndef _piqa",
            "\ndef _csqa(record):\n    return _listed(record)\n\n"
            "\ndef _listed(record):\n    return record\n\n\ndef _piqa",
        )
        package.replace(
            "tasks/benchmarks/commonsense_hub.py",
            '    "piqa": ',
            '    "csqa": HubSource("tau/csqa", None, _TEST, _csqa),\n    "piqa": ',
        )

    others = (CONFIG, FROZEN, REAL, changed(REAL, data_tasks=["arc_easy"]))
    before = [package.code(config) for config in others]
    asked = changed(REAL, data_tasks=["boolq", "csqa"])
    assert package.changed_by(change, asked) == [
        "gatera/tasks/benchmarks/commonsense.py",
        "gatera/tasks/benchmarks/commonsense_hub.py",
    ]
    assert [package.code(config) for config in others] == before
    package.replace("tasks/benchmarks/commonsense_hub.py", "return record\n", "return [record]\n")
    assert [package.code(config) for config in others] == before


def test_a_new_embedded_family_changes_nothing_for_the_others(package: Copy) -> None:
    def change() -> None:
        package.write("tasks/world_guess.py", "def guess(writer, turn, labels):\n    return 1\n")
        package.replace(
            "tasks/world_families.py",
            '    "world_truth": ',
            '    "world_guess": Family(("yes", "no"), guess),\n    "world_truth": ',
        )
        package.replace(
            "tasks/world_families.py",
            "\nFAMILIES",
            "from gatera.tasks.world_guess import guess\n\nFAMILIES",
        )

    others = (CONFIG, FROZEN, REAL)
    before = [package.code(config) for config in others]
    asked = changed(CONFIG, data_tasks=["world_guess"])
    assert "gatera/tasks/world_guess.py" in package.changed_by(change, asked)
    assert [package.code(config) for config in others] == before


FAMILY = '''"""A family of tasks of ours."""

from gatera.tasks.task import Task
from gatera.tasks.ours_too import data

TASKS: dict[str, Task] = {"trivia": Task("trivia", data, str.strip)}
'''


def test_a_new_family_of_tasks_changes_nothing_for_the_others(
    package: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        package.write("tasks/benchmarks/ours.py", FAMILY)
        package.write("tasks/ours_too.py", "def data():\n    return 1\n")
        table = "tasks/__init__.py"
        package.replace(
            table, '    "commonsense": ', '    "ours": ours.TASKS,\n    "commonsense": '
        )
        package.replace(table, "import commonsense", "import ours, commonsense")
        here = ("gatera.tasks.benchmarks.ours", "TASKS")
        monkeypatch.setitem(package_source._TASK_TABLES, "ours", here)
        monkeypatch.setitem(
            package_source._TABLES_OF, here[0], {here[1]: lambda names: names.tasks}
        )

    others = (CONFIG, FROZEN, REAL, *map(about, ("gsm8k", "xnli_en", "mgsm_sw", "convai2")))
    before = [package.code(config) for config in others]
    asked = changed(REAL, data_tasks=["boolq", "trivia"])
    assert {"gatera/tasks/benchmarks/ours.py", "gatera/tasks/ours_too.py"} <= set(
        package.changed_by(change, asked)
    )
    assert [package.code(config) for config in others] == before


def about(task: str) -> dict[str, Any]:
    return changed(CONFIG, data_tasks=[task], data_train_tasks=["world_truth"])


MATHEMATICS, MULTILINGUAL, DIALOGUE, NUMBER, METRICS = (
    f"gatera/tasks/{name}.py"
    for name in (
        "benchmarks/mathematics",
        "benchmarks/multilingual",
        "benchmarks/dialogue",
        "benchmarks/final_number",
        "metrics",
    )
)


def test_each_family_of_benchmarks_counts_for_its_own_tasks() -> None:
    families = {MATHEMATICS, MULTILINGUAL, DIALOGUE, NUMBER, METRICS}
    for config, expected in (
        (REAL, set()),
        (about("gsm8k"), {MATHEMATICS, NUMBER}),
        (changed(REAL, data_train_tasks=["metamath"]), {MATHEMATICS, NUMBER}),
        (about("xnli_en"), {MULTILINGUAL}),
        (about("mgsm_en"), {MULTILINGUAL, NUMBER}),
        (about("convai2"), {DIALOGUE, METRICS}),
    ):
        assert set(code_here(config)) & families == expected


@pytest.mark.parametrize(
    ("task", "other", "file", "old", "new"),
    [
        ("gsm8k", "metamath", "mathematics", 'record["query"]', 'record["question"]'),
        ("metamath", "gsm8k", "mathematics", "<<[^<>]*>>", "<<.*>>"),
        ("mgsm_de", "xnli_de", "multilingual", "the correct answer is", "it is"),
        ("xnli_de", "mgsm_de", "multilingual", "_SUM_TOKENS = 256", "_SUM_TOKENS = 300"),
    ],
)
def test_what_another_task_of_a_family_reads_changes_nothing(
    package: Copy, task: str, other: str, file: str, old: str, new: str
) -> None:
    config = changed(CONFIG, data_train_tasks=[task], data_tasks=["boolq"])
    changed_one = changed(CONFIG, data_train_tasks=[other], data_tasks=["boolq"])
    before = package.code(config)
    path = f"tasks/benchmarks/{file}.py"
    assert package.changed_by(lambda: package.replace(path, old, new), changed_one) == [
        f"gatera/{path}"
    ]
    assert package.code(config) == before


def test_a_changed_benchmark_changes_the_trials_that_ask_it(package: Copy) -> None:
    def change() -> None:
        package.replace(
            "tasks/benchmarks/commonsense.py", '_numbered("solution", 2)', '_numbered("way", 2)'
        )

    before = package.code(changed(REAL, data_tasks=["boolq"]))
    assert package.changed_by(change, REAL) == ["gatera/tasks/benchmarks/commonsense.py"]
    assert package.code(changed(REAL, data_tasks=["boolq"])) == before


def test_a_changed_update_changes_its_own_trials(package: Copy) -> None:
    def change() -> None:
        package.replace("adapter/updates/hira.py", "costly = True", "costly = False")

    before = {
        delta: package.code(changed(CONFIG, adapter_delta=delta)) for delta in ("lora", "mora")
    }
    hilora = package.code(HILORA)
    assert package.changed_by(change, CONFIG) == ["gatera/adapter/updates/hira.py"]
    assert before == {
        delta: package.code(changed(CONFIG, adapter_delta=delta)) for delta in ("lora", "mora")
    }
    # HiLoRA computes with HiRA's functions.
    assert changed_files(hilora, package.code(HILORA)) == ["gatera/adapter/updates/hira.py"]


def test_no_adapter_counts_for_the_frozen_backbone(package: Copy) -> None:
    files = package.code(FROZEN)
    assert files
    assert not [path for path in files if path.startswith("gatera/adapter/")]
    for path in ("layer", "__init__", "updates/hira", "gates/token"):
        change = (f"adapter/{path}.py", "\nfrom ", "\nHALF = 0.5\nfrom ")
        assert package.changed_by(lambda c=change: package.replace(*c), FROZEN) == []
    assert len(changed_files(package.code(CONFIG), code_here(CONFIG))) == 4


def code_here(config: dict[str, Any]) -> dict[str, str]:
    return training_code(config) | scoring_code(config)


def test_what_is_measured_beside_training_counts_where_it_is_asked_for() -> None:
    scored = changed(CONFIG, eval_knowledge="world")
    assert training_code(scored) == training_code(CONFIG)
    followed = changed(CONFIG, train_knowledge="world")
    new = changed_files(training_code(CONFIG), training_code(followed))
    assert new == [
        "gatera/backbones/world_text.py",
        "gatera/tasks/held_out.py",
        "gatera/training/evaluation/knowledge.py",
    ]
    assert scoring_code(followed) == scoring_code(CONFIG)


def test_a_class_of_ones_own_counts_all_that_it_may_derive_from() -> None:
    own = set(code_here(changed(CONFIG, adapter_gate="mine.py:Mine")))
    assert {f"gatera/adapter/gates/{name}.py" for name in ("token", "mlp", "attention")} <= own
    assert "gatera/adapter/updates/lora.py" not in own


def test_the_backbone_and_the_kind_of_tasks_choose_their_files() -> None:
    tiny, real = code_here(CONFIG), code_here(REAL)
    assert "gatera/tasks/world_families.py" in tiny
    assert "gatera/tasks/benchmarks/commonsense.py" not in tiny
    assert "gatera/tasks/world_families.py" not in real
    assert "gatera/backbones/world.py" not in real
    assert {
        "gatera/tasks/benchmarks/commonsense.py",
        "gatera/tasks/benchmarks/commonsense_hub.py",
    } <= set(real)
    told = code_here(changed(REAL, eval_knowledge="world"))
    assert changed_files(real, told) == [
        "gatera/backbones/world.py",
        "gatera/backbones/world_text.py",
        "gatera/tasks/held_out.py",
        "gatera/training/evaluation/knowledge.py",
    ]
    for name, file in (
        ("tiny", "tiny"),
        ("smollm2", "smollm2"),
        ("hub:a/b", "hub"),
        ("llama-3-8b", "hub"),
    ):
        files = code_here(changed(CONFIG, backbone_name=name))
        found = {path for path in files if path.startswith("gatera/backbones/")}
        others = {f"gatera/backbones/{other}.py" for other in ("tiny", "smollm2", "hub")}
        assert found & others == {f"gatera/backbones/{file}.py"}


def test_scoring_asks_the_scored_tasks_and_training_those_that_train() -> None:
    mixed = changed(CONFIG, data_tasks=["boolq"])
    assert "gatera/tasks/benchmarks/commonsense.py" in scoring_code(mixed)
    assert "gatera/tasks/benchmarks/commonsense.py" not in training_code(mixed)
    assert "gatera/tasks/world_families.py" in training_code(mixed)
    assert training_code(mixed) == training_code(CONFIG)


WITHOUT_SAY = {
    "gatera": "looks names up when they are touched",
    "gatera.settings": "what they say stands in the configuration",
    "gatera.declaring": "how settings are declared and checked",
    "gatera.trial": "what it hands on stands in the keys",
    "gatera.training.attempt_files": "names of files",
    "gatera.training.metrics_log": "what others follow a trial by",
    "gatera.training.fitting": "calls training and scoring",
    "gatera.cache_folder": "says where caches lie",
    "gatera.collecting": "says when memory is freed",
    "gatera.errors": "classes of exceptions",
    "gatera.training": "hands its arguments on",
    "gatera.training.provenance.code": "says what counts",
    "gatera.training.provenance.package": "follows imports",
    "gatera.training.provenance.trees": "reads syntax trees",
    "gatera.training.provenance.syntax": "says how it is hashed",
    "gatera.training.provenance.gpus": "says which devices there are",
    "gatera.training.provenance.machine": "describes code, libraries and host",
    "gatera.backbones.architectures": "shapes without weights",
}

RUN = """
import json, sys
import gatera.training.fitting
from gatera import backbones, tasks
from gatera.training.adapting import adapt
config = json.loads(sys.argv[1])
adapt(backbones.load("tiny").model, {**config["adapter"], "target_modules": ["q_proj"]}, 0)
tasks.load("world_truth", "test")
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] == "gatera")))
"""


def test_all_that_a_run_imports_counts_or_is_known_not_to() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(CONFIG)], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(ran.stdout.splitlines()[-1]))
    package = Package(PACKAGE)
    files = code_here(CONFIG)
    counted = {module for module in loaded if package._paths[module] in files}
    empty = {m for m in loaded if tree_sha256(package._sources[m]) == tree_sha256("")}
    not_chosen = {
        *(m for m in loaded if m.startswith("gatera.tasks.benchmarks.")),
        *("gatera.tasks.held_out", "gatera.training.evaluation.knowledge"),
        "gatera.backbones.world_text",  # of held-out text alone
        "gatera.tasks.metrics",  # of dialogue alone
        *(f"gatera.adapter.updates.{name}" for name in ("lora", "dora", "mora", "hilora")),
        "gatera.adapter.kernels.low_rank",  # of lora alone
        *(f"gatera.adapter.gates.{name}" for name in ("static", "mlp", "attention", "channel")),
    }
    assert loaded - counted - empty == (loaded & set(WITHOUT_SAY)) | not_chosen
    assert set(WITHOUT_SAY) == set(package_source._WITHOUT_SAY)
    assert len(counted) > 40


def test_hashes_made_beforehand_are_those_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh, prepared = Package(PACKAGE), Package(PACKAGE)
    prepared.prepare()
    made = dict(prepared._parts)
    assert len(made) > 60
    for config in (CONFIG, LORA, UNGATED, REAL):
        found = []
        for each in (fresh, prepared):
            monkeypatch.setattr(code, "_package", lambda each=each: each)
            found.append((training_code(config), scoring_code(config)))
        assert found[0] == found[1]
    # What is left to be made is what a configuration chooses from.
    assert {key[0] for key in prepared._parts.keys() - made} <= set(package_source._TABLES_OF)


def test_the_declarations_name_what_exists() -> None:
    package = Package(PACKAGE)
    named = [
        *code._TRAINING_ROOTS,
        *code._SCORING_ROOTS,
        *package_source._WITHOUT_SAY,
        *package_source._MODULES,
    ]
    assert [module for module in named if module not in package._paths] == []
    for module, variable in package_source._TABLES:
        assert package.table_keys(module, variable)
    with pytest.raises(LookupError, match="no dict literal MISSING"):
        package.table_keys("gatera.tasks.world_families", "MISSING")
    names = package.names(CONFIG, [], None)
    with pytest.raises(LookupError, match="there is no module"):
        package.files(["gatera.missing"], names)


def test_import_statements_are_followed_wherever_they_stand(tmp_path: Path) -> None:
    sources = {
        "__init__": "",
        "root": "import gatera.a\nfrom . import b\nfrom .c import d\n",
        "a": "def f():\n  if f:\n    from gatera.e import x\n  else:\n    import gatera.g.h as x\n",
        "b": "try:\n import gatera.i\nexcept OSError:\n match b:\n  case 1: import gatera.j\n",
        "c/__init__": "from ..k import value\n1\n",
        "c/d": "if TYPE_CHECKING:\n  import gatera.never\nelse:\n  import gatera.l\n",
        **dict.fromkeys(("e", "g/__init__", "g/h", "i", "j", "k", "l", "never"), "1"),
    }
    for name, source in sources.items():
        path = tmp_path / "gatera" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    package = Package(tmp_path / "gatera")
    names = package_source.Names(False, None, None, "", "", frozenset(), frozenset(), None)
    found = package.files(["gatera.root"], names)
    # In `root`, `b` and `d` nothing but imports is left.
    expected = {"a", "b", "c/__init__", "e", "g/__init__", "g/h", "i", "j", "k", "l"}
    assert set(found) == {f"gatera/{name}.py" for name in expected}


def test_a_name_that_a_package_passes_on_leads_to_where_it_comes_from(package: Copy) -> None:
    line = "from gatera.adapter.updates import Mora\n"
    package.replace("adapter/linear.py", "from gatera.errors", f"{line}from gatera.errors")
    assert "gatera/adapter/updates/mora.py" in package.code(CONFIG)
    assert "gatera/adapter/updates/dora.py" not in package.code(CONFIG)


def test_changed_files_names_what_differs_appeared_and_went() -> None:
    before, now = {"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}
    assert changed_files(before, now) == ["a", "c", "d"]
    assert changed_files(now, before) == ["a", "c", "d"]
    assert changed_files(now, dict(reversed(now.items()))) == []
    assert files_sha256(now) == files_sha256(dict(reversed(now.items())))
    assert files_sha256(now) != files_sha256(before)
    assert files_sha256({"a": "1", "b": "2"}) != files_sha256({"a": "12"})


def test_where_a_file_lies_counts_for_nothing(package: Copy) -> None:
    before = package.code(CONFIG)
    old, new = package.folder / LOSSES, package.folder / "training/steps/loss.py"
    new.parent.mkdir()
    new.with_name("__init__.py").write_text("")
    old.rename(new)
    for path in package.folder.rglob("*.py"):
        text = path.read_text()
        path.write_text(
            text.replace("gatera.training.optimization.losses", "gatera.training.steps.loss")
        )
    moved = package.code(CONFIG)
    assert "gatera/training/steps/loss.py" in moved
    assert changed_files(before, moved) == []
    assert files_sha256(before) == files_sha256(moved)


def test_of_two_files_that_hold_the_same_each_counts() -> None:
    before = {"a": "1", "b": "1"}
    assert changed_files(before, {"a": "1"}) == ["a", "b"]  # which of the two went cannot be told
    assert files_sha256(before) != files_sha256({"a": "1"})


def test_an_answer_that_is_changed_by_hand_stays_what_it_was() -> None:
    files = training_code(CONFIG)
    files.clear()
    assert training_code(CONFIG)


def test_the_code_of_a_thousand_trials_takes_no_time() -> None:
    code_here(CONFIG)
    began = time.process_time()
    for _ in range(1000):
        code_here(CONFIG)
    assert time.process_time() - began < 1.0


def test_asking_for_the_code_loads_no_torch() -> None:
    program = (
        "import sys, json; from gatera.training.provenance.code import training_code;"
        "training_code(json.loads(sys.argv[1]));"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, json.dumps(CONFIG)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
