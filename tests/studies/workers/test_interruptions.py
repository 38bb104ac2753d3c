"""Workers and supervisors that are stopped, killed, asked to end, or run out of disk."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from made_up import commit_result, note_end
from made_up_work import start_run, start_worker
from processes import running

from gatera.studies.store.snapshot import status_of
from gatera.studies.store.store import Store
from gatera.studies.workers.fitness import Fitness
from gatera.studies.workers.worker import work

OPTIONS = {"plan_ids": (), "max_attempts": None, "claim_timeout": 60.0}  # of a worker


@pytest.fixture
def one_trial(store, plan):
    """A store in which one trial is left to run."""
    store.write_plan(plan)
    *others, trial = plan.trials
    for other in others:
        commit_result(store, other, 0.5)
    return trial


@pytest.fixture
def begun():
    """Processes that are ended with the test."""
    with contextlib.ExitStack() as stack:

        def begin(process):
            stack.callback(process.communicate)
            stack.callback(_kill_group, process.pid)
            return process

        yield begin


@pytest.fixture(params=["forkserver", "spawn"])
def start_method(request, monkeypatch):
    """How a worker starts trials' processes: it tells by whether it may use a GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", {"forkserver": "", "spawn": "0"}[request.param])
    return request.param


with_every_start_method = pytest.mark.usefixtures("start_method")


def _kill_group(pid):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def step_of(store, key, attempt):
    return (store.progress(key, attempt) or {}).get("step", 0)


def steps_of(store, key, attempt):
    return [line["step"] for line in store.metrics(key, attempt)]


def end_of(process, seconds=60.0):
    """Wait for a worker to end by itself; return what it said."""
    _, said = process.communicate(timeout=seconds)
    return said


def test_a_stopped_worker_is_taken_over_and_its_late_result_thrown_away(
    store, one_trial, begun, tmp_path
):
    key = one_trial.key
    go_on = tmp_path / "go_on"
    stopped = begun(start_worker(store, hanging_attempt=1, hangs_after=2, until=str(go_on)))
    wait_for(lambda: step_of(store, key, 1) >= 2)
    os.killpg(stopped.pid, signal.SIGSTOP)
    other = begun(start_worker(store, claim_timeout=6.0))
    end_of(other)
    assert other.returncode == 0
    first = store.result(key)
    assert first.attempt == 2
    written = (store.trial_folder(key) / "result.json").read_bytes()
    dead = json.loads((store.trial_folder(key) / "claim.1.dead").read_text())
    assert dead == {"reason": "no progress for 6 s"}
    go_on.touch()
    os.killpg(stopped.pid, signal.SIGCONT)
    end_of(stopped)
    late = store.attempt_folder(key, 1) / "late.json"
    assert json.loads(late.read_text()) == {"equal": True}
    assert "another attempt had committed" in (late.parent / "log").read_text()
    assert (store.trial_folder(key) / "result.json").read_bytes() == written
    assert store.claims.newest(key) == 2


def test_a_trial_that_is_given_up_while_a_worker_looks_is_taken_all_the_same(
    store, one_trial, monkeypatch
):
    tries = []

    def claim(self, key, owner, after, truly=Store.claim):
        tries.append(key)
        # Held at the first look; that its holder gave it up is seen by the next question.
        return None if len(tries) == 1 else truly(self, key, owner, after=after)

    monkeypatch.setattr(Store, "claim", claim)
    work(store.folder, worker="me", runs="made_up_work", preload=(), **OPTIONS)
    assert tries == [one_trial.key] * 2
    assert store.has_result(one_trial.key)


def test_a_trial_that_fails_for_the_last_time_while_a_worker_looks_is_left_alone(
    store, one_trial, monkeypatch
):
    key = one_trial.key

    def fail(attempt):
        claim = store.claim(key, {"worker": "another"})
        note_end(store, key, attempt, "bug")
        claim.release()

    fail(1)
    # Asked between the question whether the trial may be tried again and the claim.
    monkeypatch.setattr(Fitness, "check", lambda self, trial: fail(2))
    work(store.folder, worker="me", runs="made_up_work", preload=(), **OPTIONS)
    assert store.claims.newest(key) == 2
    assert [each.ended for each in store.failures(key)] == ["bug", "bug"]


@with_every_start_method
def test_a_hanging_trial_is_ended_by_its_own_worker_and_run_again(store, one_trial, begun):
    key = one_trial.key
    worker = begun(start_worker(store, claim_timeout=6.0, hanging_attempt=1))
    end_of(worker)
    assert worker.returncode == 0
    assert store.result(key).attempt == 2
    (failure,) = store.failures(key)
    assert (failure.ended, failure.message) == (
        "killed",
        "static_gate, seed 2: made no progress for 6 s",
    )


@with_every_start_method
def test_sigterm_releases_the_trial_and_what_follows_resumes_it(store, one_trial, begun):
    key = one_trial.key
    worker = begun(start_worker(store, steps=12, hanging_attempt=1, hangs_after=5))
    wait_for(lambda: step_of(store, key, 1) >= 5)
    worker.send_signal(signal.SIGTERM)
    end_of(worker)
    assert worker.returncode == 143
    assert store.record(key, 1).ended == "interrupted"
    assert status_of(store, one_trial).state == "waiting"
    end_of(begun(start_worker(store, steps=12)))
    assert store.result(key).attempt == 2
    assert steps_of(store, key, 2)[0] > 1


@with_every_start_method
def test_sigterm_to_the_whole_group_lets_the_trial_save(store, one_trial, begun, tmp_path):
    key, saved = one_trial.key, tmp_path / "saved"
    worker = begun(start_worker(store, hanging_attempt=1, saves_when_asked=str(saved)))
    wait_for(lambda: step_of(store, key, 1) >= 1)
    os.killpg(worker.pid, signal.SIGTERM)
    end_of(worker)
    assert worker.returncode == 143
    assert saved.exists()
    assert store.record(key, 1).ended == "interrupted"


@with_every_start_method
def test_a_worker_that_is_asked_to_end_before_its_trial_runs_counts_nothing(
    store, one_trial, begun
):
    worker = begun(start_worker(store, hanging_attempt=1))
    wait_for(lambda: store.claims.newest(one_trial.key) == 1)  # which takes it a second to begin
    worker.send_signal(signal.SIGTERM)
    end_of(worker)
    assert worker.returncode == 143
    assert store.record(one_trial.key, 1).ended == "interrupted"
    assert not store.claims.is_live(one_trial.key, 1)


def listens(pid):
    """Return whether a process has a handler of its own for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_a_worker_that_waits_for_others_ends_at_once_when_asked(store, one_trial, begun):
    claim = store.claim(one_trial.key, {"worker": "another"})
    worker = begun(start_worker(store))
    wait_for(lambda: listens(worker.pid))
    time.sleep(1)  # so that it waits, which it does at once
    worker.send_signal(signal.SIGTERM)
    end_of(worker)
    assert worker.returncode == 143
    claim.release()


@pytest.mark.parametrize(("step", "saved"), [(1, 0), (3, 2)])
@with_every_start_method
def test_a_killed_worker_counts_against_its_trial_unless_it_advanced(
    store, one_trial, begun, step, saved
):
    key = one_trial.key
    worker = begun(start_worker(store, steps=step + 1, hanging_attempt=1, hangs_after=step))
    wait_for(lambda: step_of(store, key, 1) >= step)
    os.kill(worker.pid, signal.SIGKILL)
    end_of(begun(start_worker(store)))
    assert store.result(key).attempt == 2
    record = store.record(key, 1)
    assert (record.ended, record.message) == (
        "killed",
        "static_gate, seed 2: ended with its worker",
    )
    assert (record.steps, record.answers) == (saved, 0)
    assert 0 < record.seconds < 60  # as its metrics.jsonl says
    assert len(store.failures(key)) == (saved == 0)


def test_a_worker_started_again_under_its_name_gives_up_its_old_claim(
    store, one_trial, begun, monkeypatch
):
    owner = {"worker": "job_7", "host": "elsewhere", "pid": 1}
    claim = store.claim(one_trial.key, owner)  # as after a requeue, where the old lock lives on
    monkeypatch.setenv("GATERA_WORKER", "job_7")
    end_of(begun(start_worker(store)))
    assert store.result(one_trial.key).attempt == 2
    claim.release()


@with_every_start_method
def test_a_full_disk_ends_the_worker_with_one_message_and_counts_for_nothing(
    store, one_trial, begun, tmp_path
):
    full = tmp_path / "full"
    full.touch()
    worker = begun(start_worker(store, full_while=str(full)))
    said = end_of(worker)
    assert worker.returncode == 2
    assert said == (
        f"gatera: no room left on the disk or quota of {store.folder}; nothing that was finished "
        "is lost. Make room, and the same command goes on.\n"
    )
    assert store.failures(one_trial.key) == []
    full.unlink()
    end_of(begun(start_worker(store, full_while=str(full))))
    assert store.result(one_trial.key).attempt == 2


def test_a_pruned_trial_stops_and_is_left_alone(store, one_trial, begun):
    key = one_trial.key
    worker = begun(start_worker(store, steps=200, pause=0.1))
    wait_for(lambda: step_of(store, key, 1) >= 2)
    store.prune(key, 2)
    end_of(worker)
    assert worker.returncode == 0
    assert status_of(store, one_trial).state == "pruned"
    assert step_of(store, key, 1) < 100
    assert store.record(key, 1).ended == "pruned"
    assert store.claims.newest(key) == 1


def workers_of(store: Store) -> list[int]:
    return [each.worker for each in running(store.folder)]


@with_every_start_method
def test_ctrl_c_twice_ends_a_run_whose_trials_do_not_listen(tracked, one_trial, begun):
    store = tracked
    run = begun(start_run(store, steps=2, pause=600.0, ignores_sigterm=True))
    wait_for(lambda: step_of(store, one_trial.key, 1))
    workers = workers_of(store)
    run.send_signal(signal.SIGINT)
    heard = ""
    while "stopping; workers save a checkpoint (again: end at once)" not in heard:
        heard += run.stderr.readline()
    assert run.poll() is None  # it waits for the workers, half a minute
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    said = heard + end_of(run)
    assert time.monotonic() - began < 25
    assert run.returncode == 130
    assert "interrupted; everything finished is kept" in said
    assert "Traceback" not in said
    assert workers
    # An ended one may be left for the system's first process to collect, which takes a moment.
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers), 10)


@with_every_start_method
def test_sigterm_ends_a_run_as_ctrl_c_does(tracked, one_trial, begun):
    store = tracked
    run = begun(start_run(store, steps=100, pause=0.1))
    wait_for(lambda: step_of(store, one_trial.key, 1) >= 3)
    run.send_signal(signal.SIGTERM)
    end_of(run)
    assert run.returncode == 130
    assert workers_of(store) == []
    assert store.record(one_trial.key, 1).ended == "interrupted"


def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    tracked, one_trial, begun, tmp_path
):
    store, full = tracked, tmp_path / "full"
    full.touch()
    run = begun(start_run(store, full_while=str(full)))
    said = end_of(run)
    assert run.returncode == 2
    assert said.count("no room left on the disk") == 1
    assert "Traceback" not in said
    assert workers_of(store) == []
    full.unlink()
    again = begun(start_run(store, full_while=str(full)))
    counts, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert json.loads(counts)["done"] == 10


def test_a_dead_worker_is_replaced_and_a_dead_supervisor_takes_its_workers_over(
    tracked, plan, begun
):
    store = tracked
    store.write_plan(plan)
    run = begun(start_run(store, steps=20, pause=0.5))
    first = wait_for(lambda: len(workers_of(store)) == 2 and workers_of(store))
    wait_for(lambda: any(store.is_running(trial.key) for trial in plan.trials))
    run.kill()
    os.kill(first[0], signal.SIGKILL)
    run.wait()
    again = begun(start_run(store, steps=20, pause=0.1))
    second = wait_for(lambda: len(workers_of(store)) == 2 and workers_of(store))
    assert first[1] in second
    counts, said = again.communicate(timeout=120)
    assert json.loads(counts)["done"] == 10, said


def test_the_claim_timeout_is_positive(tmp_path):
    done = subprocess.run(
        ["python", "-m", "gatera.studies", "work", str(tmp_path), "--claim-timeout", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--claim-timeout: 0 is not a number of seconds above 0" in done.stderr


def test_where_there_is_a_gpu_no_trial_is_a_fork_of_what_may_have_started_it(
    start_method, store, one_trial, begun
):
    key = one_trial.key
    end_of(begun(start_worker(store, on_a_device=True)))
    if start_method == "spawn":
        assert store.result(key).attempt == 1
    else:  # what would happen
        assert "cannot start the device again in a fork" in store.record(key, 1).message
