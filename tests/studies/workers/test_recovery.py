"""Runs whose trials only pretend: failures and repairs, damage, lost projections, lost workers."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_up import commit_result
from made_up_work import run_here
from optuna_journal import optuna_trials
from views import content

from gatera import cli
from gatera.errors import InputError
from gatera.studies.launch import Slots, choose
from gatera.studies.launch.local import LocalLauncher
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.views import mlflow_view, projection
from gatera.studies.views.optuna_view import OptunaView
from gatera.studies.views.progress import failure_lines
from gatera.studies.workers.pool import WorkerPool


@pytest.fixture
def run(tracked, plan, tmp_path, monkeypatch):
    """Return what runs the made-up study in this process, with two workers."""
    tracked.write_plan(plan)
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def run_study(course=None, **options):
        monkeypatch.setenv("MADE_UP", json.dumps(course or {}))
        return run_here(tracked, plan.id, "local", tmp_path / "reports", **options)

    return run_study


def test_a_planted_bug_fails_alone_and_is_run_again_when_repaired(run, store, plan, tmp_path):
    repaired = tmp_path / "repaired"
    course = {"broken_variant": "hira", "repaired": str(repaired)}
    outcome = run(course)
    counts = outcome.snapshot.counts
    assert (counts["done"], counts["failed"], counts["waiting"]) == (7, 3, 0)
    for trial in plan.trials_of("hira"):
        assert store.claims.newest(trial.key) == 2
    lines = failure_lines(outcome.snapshot)
    assert lines[0] == "failed (bug, attempt 2): hira, seed 0: RuntimeError: a planted bug"
    assert "    RuntimeError: a planted bug" in lines
    assert "hira, seed 1: failed: hira, seed 1: RuntimeError: a planted bug" in (
        outcome.report.markdown
    )
    repaired.touch()
    still = run(course)
    assert still.snapshot.counts["failed"] == 3
    assert [store.claims.newest(trial.key) for trial in plan.trials_of("hira")] == [2, 2, 2]
    again = run(course, retry="failed")
    assert again.snapshot.counts["done"] == 10
    assert "planted" not in again.report.markdown
    assert "| hira | 3 |" in again.report.markdown


def test_more_attempts_are_made_where_they_are_asked_for(run, store, plan, tmp_path):
    outcome = run({"broken_variant": "hira", "repaired": str(tmp_path / "no")}, max_attempts=3)
    assert outcome.snapshot.counts["failed"] == 3
    assert [store.claims.newest(trial.key) for trial in plan.trials_of("hira")] == [3, 3, 3]


def test_a_damaged_result_runs_again_and_a_late_other_one_is_named(run, store, plan):
    first = run(measured=False)  # the attempts of a trial take their time together
    damaged, late = (plan.trials[place].key for place in (2, 5))
    store.predictions_path(damaged, 1).write_text("something else")
    (store.trial_folder(late) / "claim.2").write_text("{}")
    store.attempt_folder(late, 2).mkdir()
    (store.attempt_folder(late, 2) / "late.json").write_text('{"equal": false}')
    again = run(measured=False)
    assert again.snapshot.counts["done"] == 10
    assert store.result(damaged).attempt == 2
    assert again.report.markdown == first.report.markdown
    assert len(again.warnings) == 2
    assert "predictions.parquet was changed; the result was set aside" in again.warnings[0]
    assert "attempt 2 ended late with another result" in again.warnings[1]


def test_both_views_are_rebuilt_equal_from_the_store(run, store, plan, tmp_path):
    run({"broken_variant": "static_gate", "repaired": str(tmp_path / "no")})
    before = content(store.folder, tmp_path / "before.db")
    mlflow, optuna = before
    assert len(mlflow) == len(plan.trials) + 1
    assert mlflow["hira/seed0"][1] == "FINISHED"
    assert mlflow["static_gate/seed1"][1] == "FAILED"
    assert mlflow["hira/seed0"][4]["train/loss"] == [(s, 1 / s) for s in (1, 2, 3, 4)]
    assert mlflow["hira/seed0"][5] == ["predictions.parquet"]
    assert [name for name, *_ in mlflow["hira/seed0"][7]] == ["hira-seed0"]
    assert mlflow["static_gate/seed1"][6] == mlflow["hira/seed0"][6] != []
    assert mlflow["made_up.tiny"][5] == ["report"]
    assert mlflow["made_up.tiny"][2]["mlflow.note.content"].startswith("## Findings")
    assert "hira/average" in mlflow["made_up.tiny"][4]
    assert len(optuna) == len(plan.trials)
    (store.folder / "mlflow.db").unlink()
    (store.folder / "optuna.journal").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "gatera.studies", "sync", str(store.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "made_up.tiny: 10 trials\n", done.stderr
    assert content(store.folder, tmp_path / "after.db") == before


def test_damaged_views_are_set_aside_and_made_again(tracked, plan, tmp_path):
    for trial in plan.trials[:2]:
        commit_result(tracked, trial, 0.5)
    OptunaView(tracked, plan).sync()
    journal, database = (tracked.folder / name for name in ("optuna.journal", "mlflow.db"))
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    database.write_bytes(b"no database at all" * 100)
    OptunaView(tracked, plan).sync()
    mlflow_view.Tracker(tracked, plan, None).sync()
    keys = [t.user_attrs["key"] for t in optuna_trials(tracked)]
    assert keys == [t.key for t in plan.trials[:2]]
    assert len(content(tracked.folder, tmp_path / "copy.db")[0]) == 3
    for path in (journal, database):
        assert path.with_name(f"{path.name}.damaged-1").exists()


def test_a_tracking_server_that_is_away_is_told_at_once_and_delays_nothing(
    run, store, plan, capsys
):
    uri = "http://127.0.0.1:9"
    outcome = run({"pause": 0.5}, tracking_uri=uri)
    assert outcome.snapshot.counts["done"] == 10
    told = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert told == [
        f"MLflow is not up to date (nothing answers at {uri}; start the server there, or name "
        "another with --tracking-uri); the trials go on."
    ]
    (warning,) = outcome.warnings
    line = f"python -m gatera.studies sync {store.folder} --tracking-uri {uri}"
    assert warning.startswith(f"MLflow is not up to date (nothing answers at {uri};")
    assert warning.endswith(f"; the store is complete, and `{line}` brings it up to date.")
    assert cli.main(line.split()[3:]) == 2
    assert f"gatera: nothing answers at {uri}" in capsys.readouterr().err


def test_a_run_does_without_mlflow_where_it_is_asked_to(run, store, plan, capsys):
    (store.folder / "mlflow.db").unlink()
    outcome = run(tracking_uri="none")
    assert outcome.snapshot.counts["done"] == 10
    assert outcome.warnings == ()
    assert cli.main(["sync", str(store.folder), "--tracking-uri", "none"]) == 0
    assert capsys.readouterr() == ("made_up.tiny: 10 trials\n", "")
    assert not (store.folder / "mlflow.db").exists()
    assert len(optuna_trials(store)) == 10


@contextlib.contextmanager
def a_server_that_knows_no_page():
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_tracking_server_is_there_when_it_answers_anything(monkeypatch):
    with a_server_that_knows_no_page() as port:
        projection.check_that_it_answers(f"http://127.0.0.1:{port}")
        projection.check_that_it_answers(f"http://me:secret@127.0.0.1:{port}/mlflow")
    for uri in (None, "none", "sqlite:///a.db", "databricks"):
        projection.check_that_it_answers(uri)
    monkeypatch.setattr(projection, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(InputError, match=f"nothing answers at {uri}"):
            projection.check_that_it_answers(uri)
        assert time.monotonic() - begun < 5


class StandIn:
    """A launcher whose workers do what a test says."""

    def __init__(self, alive=(), name="stand-in@here", listed=()):
        self.name = name
        self.running = {*alive, *listed}
        self.listed = set(listed)
        self.started = []

    def start(self, count, command, gpus, cpus):
        ids = [f"w{len(self.started) + place}" for place in range(count)]
        self.started += ids
        self.running |= set(ids)
        self.command, self.gpus, self.cpus = command, gpus, cpus
        return ids

    def known(self):
        return self.listed

    def alive(self, ids):
        return self.running & set(ids)

    def stop(self, ids, *, at_once=False):
        self.running -= set(ids)


def pool_of(store, plan, launcher, *, workers=2):
    return WorkerPool(
        store, plan.id, launcher, Slots(workers), max_attempts=None, claim_timeout=60.0
    )


def tend(pool, store, plan):
    pool.look()
    pool.tend(take_snapshot(store, plan))


def test_workers_are_started_once_and_replaced_when_they_die(store, plan):
    launcher = StandIn()
    pool = pool_of(store, plan, launcher)
    for _ in range(3):
        tend(pool, store, plan)
    assert launcher.started == ["w0", "w1"]
    assert launcher.command[2:] == [
        *("gatera.studies", "work", str(store.folder), "--plan", "made_up.tiny"),
        *("--claim-timeout", "60.0"),
    ]
    launcher.running.discard("w1")
    tend(pool, store, plan)
    assert launcher.started == ["w0", "w1", "w2"]
    again = pool_of(store, plan, launcher)  # another supervisor
    tend(again, store, plan)
    assert launcher.started == ["w0", "w1", "w2"]
    again.stop()
    assert launcher.running == set()


def test_a_worker_that_only_its_engine_knows_is_taken_over(store, plan):
    launcher = StandIn(listed=["job_0"])  # its supervisor was killed before it could note it
    pool = pool_of(store, plan, launcher)
    tend(pool, store, plan)
    assert launcher.started == ["w0"]
    assert json.loads((store.folder / "workers.json").read_text()) == {
        "stand-in@here": ["job_0", "w0"]
    }
    pool.stop()
    assert launcher.running == set()


def test_the_claim_of_a_worker_that_its_launcher_lost_is_dead(store, plan):
    key = plan.trials[0].key
    launcher = StandIn()
    pool = pool_of(store, plan, launcher)
    tend(pool, store, plan)
    claims = [
        store.claim(trial.key, {"worker": worker})
        for trial, worker in zip(plan.trials, ("w0", "w1", "by_hand"), strict=False)
    ]
    tend(pool, store, plan)
    assert store.is_running(key)
    launcher.running.discard("w0")
    tend(pool, store, plan)
    assert [store.is_running(trial.key) for trial in plan.trials[:3]] == [False, True, True]
    dead = json.loads((store.trial_folder(key) / "claim.1.dead").read_text())
    assert dead == {"reason": "its worker w0 is gone"}
    for claim in claims:
        claim.release()


def test_workers_of_another_engine_or_host_are_left_alone(store, plan):
    elsewhere = StandIn(name="slurm")
    pool = pool_of(store, plan, elsewhere, workers=1)
    tend(pool, store, plan)
    claim = store.claim(plan.trials[0].key, {"worker": "w0"})
    here = StandIn()
    tend(pool_of(store, plan, here, workers=1), store, plan)
    assert store.is_running(plan.trials[0].key)
    assert here.started == ["w0"]
    noted = json.loads((store.folder / "workers.json").read_text())
    assert noted == {"slurm": ["w0"], "stand-in@here": ["w0"]}
    claim.release()


def test_an_id_that_is_no_process_of_this_machine_is_not_alive(tmp_path):
    launcher = LocalLauncher(tmp_path)
    assert launcher.alive(["123_0", "elsewhere/77/123", "no/pid/at/all"]) == set()


def test_a_worker_that_was_started_and_not_noted_is_stopped_too(tmp_path):
    launcher = LocalLauncher(tmp_path)
    (worker,) = launcher.start(1, [sys.executable, "-c", "import time; time.sleep(600)"], 0, 1)
    assert launcher.alive([worker]) == {worker}
    launcher.stop([])  # an interrupt came before its id was known to anybody
    assert launcher.alive([worker]) == set()


def test_no_more_workers_than_trials_are_started(store, plan):
    for trial in plan.trials[1:]:
        commit_result(store, trial, 0.5)
    launcher = StandIn()
    tend(pool_of(store, plan, launcher, workers=5), store, plan)
    assert launcher.started == ["w0"]


def test_workers_that_end_again_and_again_end_the_run(store, plan):
    launcher = StandIn()
    pool = pool_of(store, plan, launcher)
    (store.folder / "logs").mkdir()
    (store.folder / "logs" / "workers.log").write_text("a line\nImportError: no torch\n")

    def lose_them_all():
        for _ in range(20):
            tend(pool, store, plan)
            launcher.running.clear()

    with pytest.raises(InputError, match=r"before they take a trial \(ImportError: no torch\)"):
        lose_them_all()
    assert len(launcher.started) < 12


def test_every_gpu_gets_its_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    _, slots = choose.local(tmp_path, None, "small", None, 3)
    assert (slots.workers, slots.gpus) == (6, 1)
    _, slots = choose.local(tmp_path, None, "small", 2, 3)
    assert slots.workers == 2


@pytest.mark.parametrize(
    ("gpus", "scale", "workers", "a_gpu", "slots"),
    [
        ("", "tiny", None, 1, Slots(12, 0, 1)),
        ("", "tiny", 3, 1, Slots(3, 0, 1)),
        ("", "small", None, 1, Slots(12, 0, 1)),
        ("", "small", 3, 1, Slots(3, 0, 4)),
        ("", "small", 24, 1, Slots(24, 0, 1)),
        ("0,1", "tiny", None, 1, Slots(2, 1, 6)),
        ("0,1", "tiny", None, 3, Slots(6, 1, 2)),
        ("0,1", "small", None, 3, Slots(6, 1, 2)),
        ("0,1", "small", 4, 1, Slots(4, 1, 3)),
        ("0,1", "tiny", 4, 1, Slots(4, 1, 3)),
    ],
)
def test_threads_of_all_workers_are_no_more_than_the_cores(
    tmp_path, monkeypatch, gpus, scale, workers, a_gpu, slots
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(choose, "cpu_count", lambda: 12)
    assert choose.local(tmp_path, None, scale, workers, a_gpu)[1] == slots


def test_slurm_needs_a_number_of_workers(tmp_path):
    with pytest.raises(InputError, match="--launcher slurm needs --workers N"):
        choose.slurm(tmp_path, None, None, "partition=gpu")
