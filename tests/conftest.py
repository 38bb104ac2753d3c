"""A made-up study, its plan and an empty store."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: its threads would spin on two cores

import shutil
from pathlib import Path

import pytest

from gatera.studies import Study, Variant
from gatera.studies.catalog import LoadedStudy
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.planning.plan import Plan
from gatera.studies.store.store import Store


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def study() -> LoadedStudy:
    """A study with two variants beside its reference."""
    variants = (
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("static_gate", changes={"adapter.gate": "static"}),
        Variant("gatera"),
    )
    stated = Study(variants, reference="gatera", title="A title", seeds=(0, 1, 2))
    return LoadedStudy("made_up", stated, Path("made_up.py"), "s" * 64)


@pytest.fixture
def plan(study: LoadedStudy) -> Plan:
    """The plan of `study` at the embedded scale: 10 trials."""
    return make_plan(study, Request())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store", create=True)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, which takes MLflow seconds to make."""
    from gatera.studies.views import mlflow_database

    store = Store(tmp_path_factory.mktemp("database") / "store", create=True)
    mlflow_database.prepare_database(store)
    return store.folder / "mlflow.db"


@pytest.fixture
def tracked(store: Store, database: Path) -> Store:
    """An empty store that has its MLflow database."""
    shutil.copy(database, store.folder / "mlflow.db")
    return store
