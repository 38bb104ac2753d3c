"""A tuning trial, really trained: it never opens a test file, and says nothing of test items."""

import contextlib
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from gatera import tasks
from gatera.studies import Study, Tuning, Variant
from gatera.studies.catalog import LoadedStudy
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.search.tuner import Tuner
from gatera.studies.store.store import Store
from gatera.tasks.mixture import items_sha256, load_mixture, questions_also_tested
from gatera.training import fit

_opened: list[str] | None = None


def _watch(event, arguments):
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_watch)  # it cannot be taken away again; outside of `watching` it does nothing


@contextlib.contextmanager
def watching():
    """Yield the paths of all files that this process opens meanwhile."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture
def root(data_root, tmp_path):
    """A data root of this test's own."""
    shutil.copytree(data_root, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def trial(backbone_folder, root, tmp_path):
    """The first tuning trial of a study on these files."""
    study = Study(
        variants=(Variant("gatera"),),
        reference="gatera",
        tasks=("boolq",),
        defaults={
            "backbone.name": f"hub:{backbone_folder}",
            "adapter.r": 3,
            "adapter.target_modules": ["q_proj", "down_proj"],
            "train.batch_size": 8,
            "train.accumulation": 1,
            "train.max_tokens": 64,
            "data.train_tasks": ["boolq"],
            "train.validation_items": 7,
            "eval.knowledge": None,
        },
        tuning=Tuning(search={"train.learning_rate": (1e-3, 1e-1, "log")}, trials=2, steps=4),
    )
    loaded = LoadedStudy("made_up", study, Path("made_up.py"), "s" * 64)
    plan = make_plan(loaded, Request(scale="small", data_root=root))
    tuner = Tuner(Store(tmp_path / "store", create=True), plan)
    tuner.advance()
    return tuner.plan.trials[0]


def test_a_tuning_trial_never_opens_a_test_file(trial, root, tmp_path):
    with watching() as opened:
        tasks.load("boolq", "test", root)
    assert str(root / "commonsense" / "boolq" / "test.json") in opened  # the watch sees it
    with watching() as opened:
        result = fit(trial, tmp_path / "attempt", data_root=root)
    data = root / "commonsense" / "boolq"
    assert {path for path in opened if path.endswith(".json") and path.startswith(str(root))} == {
        str(data / "train.json")
    }
    assert result.metrics["val/step"] in (1, 2, 3, 4)
    assert 0 <= result.metrics["val/accuracy"] <= 1
    assert not [name for name in result.metrics if name.startswith("test")]
    assert result.gates == {}
    assert pd.read_parquet(tmp_path / "attempt" / "predictions.parquet").empty
    assert not (tmp_path / "attempt" / "adapter").exists()
    (data / "test.json").unlink()
    again = fit(trial, tmp_path / "again", data_root=root)
    assert again.metrics == result.metrics


def test_a_tuning_trial_trains_and_validates_on_what_the_seeds_do(trial, root):
    asked = questions_also_tested(["boolq"], ["boolq"], root)
    assert len(trial.left_out) == 3  # questions of the training file that the test file asks
    assert list(trial.left_out) == asked["boolq"]
    seeds = load_mixture(["boolq"], 7, root, asked["boolq"])
    assert load_mixture(["boolq"], 7, root, trial.left_out) == seeds
    assert trial.identities["items"] == items_sha256(seeds)
    assert load_mixture(["boolq"], 7, root) != seeds
