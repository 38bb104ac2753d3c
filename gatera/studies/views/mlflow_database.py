"""MLflow's database and files of a store, made and looked at without importing MLflow."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gatera.cache_folder import cache_folder, locked
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import set_aside


def local_uri(store: Store) -> str:
    """Return the tracking URI of the store's own database."""
    return f"sqlite:///{store.folder / 'mlflow.db'}"


def prepare_database(store: Store) -> None:
    """Make the store's MLflow database, whole or not at all; set one that is damaged aside.

    Raises:
        RuntimeError: MLflow could not make it, or something else is in its place.
    """
    path = store.folder / "mlflow.db"
    if path.is_dir():  # which MLflow alone would try to open for minutes
        raise RuntimeError(f"{path} is a folder where MLflow's database should be; move it away")
    if path.exists():
        if not _is_damaged(path):
            return
        set_aside(path)
    with tempfile.TemporaryDirectory(dir=store.folder, prefix=".mlflow-") as folder:
        temporary = Path(folder) / path.name
        try:
            shutil.copyfile(_empty_database(), temporary)
        except OSError:  # a cache that cannot be used is no hindrance
            _migrate(temporary)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)


def _empty_database() -> Path:
    """Return a database without a run, which each version of MLflow makes once, for seconds."""
    path = cache_folder() / f"mlflow-{metadata.version('mlflow')}.db"
    with locked(path.with_suffix(".lock")):
        if not path.exists() or _is_damaged(path):
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
                made = Path(folder) / path.name
                _migrate(made)
                os.replace(made, path)
    return path


def _migrate(path: Path) -> None:
    """Make a database by MLflow's migrations; a process killed meanwhile leaves it broken."""
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise RuntimeError(f"MLflow could not make {path}: {made.stderr.strip()[-500:]}")


def _is_damaged(path: Path) -> bool:
    """Return whether a file is no database, or holds nothing of MLflow's."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError as error:
        return "no such table" in str(error)  # else it is locked or away, and not ours to judge
    except sqlite3.DatabaseError:
        return True
    return False


_TRIALS = """
SELECT DISTINCT key.value
FROM tags AS plan
JOIN runs AS parent ON parent.run_uuid = plan.run_uuid AND parent.lifecycle_stage = 'active'
JOIN tags AS child ON child.key = 'mlflow.parentRunId' AND child.value = parent.run_uuid
JOIN runs AS run ON run.run_uuid = child.run_uuid AND run.lifecycle_stage = 'active'
JOIN tags AS key ON key.run_uuid = run.run_uuid AND key.key = 'gatera.key'
WHERE plan.key = 'gatera.plan' AND plan.value = ?
"""


def keys_in(path: Path, plan_id: str) -> set[str]:
    """Return the keys of the trials of a plan that a database has, but for runs put in the bin."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return {key for (key,) in database.execute(_TRIALS, (plan_id,))}
    except sqlite3.Error:
        return set()


def local_folder(location: str) -> Path:
    """Return the folder that a location of MLflow's on this machine names."""
    where = urlsplit(location)
    return Path(unquote(where.path) if where.scheme else location)


def can_link(store: Store, location: str) -> bool:
    """Return whether what lies at a location of MLflow's can be a link to a file of the store."""
    if urlsplit(location).scheme not in ("", "file"):
        return False
    folder = local_folder(location)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder.stat().st_dev == store.folder.stat().st_dev
    except OSError:
        return False


def ui_addresses(store: Store, port: int) -> dict[str, str]:
    """Return the address of each study's runs in MLflow's UI, by the study's name.

    It names the part of the UI for model training: MLflow opens the one for generative AI for
    whoever has not chosen, whatever an experiment's tag says.
    """
    path = store.folder / "mlflow.db"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found = database.execute(_EXPERIMENTS).fetchall()
    except sqlite3.Error:
        return {}
    page = f"http://127.0.0.1:{port}/#/experiments"
    return {name: f"{page}/{number}?workflowType=machine_learning" for name, number in found}


_EXPERIMENTS = """
SELECT DISTINCT experiments.name, experiments.experiment_id
FROM experiments
JOIN runs ON runs.experiment_id = experiments.experiment_id AND runs.lifecycle_stage = 'active'
JOIN tags AS plan ON plan.run_uuid = runs.run_uuid AND plan.key = 'gatera.plan'
WHERE experiments.lifecycle_stage = 'active'
ORDER BY experiments.name
"""


def ui_command(store: Store, port: int) -> list[str]:
    """Return the command that serves MLflow's UI on the store, on localhost."""
    prepare_database(store)
    artifacts = (store.folder / "mlartifacts").as_uri()
    return [
        *(sys.executable, "-m", "mlflow", "ui"),
        *("--backend-store-uri", local_uri(store)),
        *("--default-artifact-root", artifacts),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
