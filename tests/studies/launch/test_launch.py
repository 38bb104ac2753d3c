import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gatera.studies.launch import Slots
from gatera.studies.launch.local import LocalLauncher
from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.workers.pool import WorkerPool
from gatera.training.provenance import gpus
from gatera.training.provenance.gpus import may_use_gpu, visible_gpus

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_workers_live_until_they_are_stopped(tmp_path):
    launcher = LocalLauncher(tmp_path)
    ids = launcher.start(2, SLEEP, gpus=0, cpus=1)
    assert launcher.alive(ids) == set(ids)
    assert LocalLauncher(tmp_path).alive(ids) == set(ids)  # another supervisor sees them too
    launcher.stop(ids)
    assert launcher.alive(ids) == set()


def test_workers_get_their_threads_and_environment(tmp_path):
    program = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['EXTRA'])"
    launcher = LocalLauncher(tmp_path, {"EXTRA": "given"})
    ids = launcher.start(1, [sys.executable, "-c", program], gpus=0, cpus=3)
    deadline = time.monotonic() + 20
    while launcher.alive(ids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "workers.log").read_text() == "3 given\n"


def test_gpus_share_workers_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert visible_gpus() == ["4", "7"]
    program = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    launcher = LocalLauncher(tmp_path)
    ids = launcher.start(3, [sys.executable, "-c", program], gpus=1, cpus=1)
    deadline = time.monotonic() + 20
    while launcher.alive(ids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted((tmp_path / "workers.log").read_text().split()) == ["4", "4", "7"]


class Sleepers(LocalLauncher):
    """Starts processes that sleep where the supervisor asks for workers."""

    def start(self, count, command, gpus, cpus):
        return super().start(count, SLEEP, gpus, cpus)


def pid_of(worker):
    return int(worker.split("/")[1])


def device_of(worker):
    environment = Path(f"/proc/{pid_of(worker)}/environ").read_bytes().decode().split("\0")
    return dict(each.partition("=")[::2] for each in environment)["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize("a_gpu", [1, 2])
def test_a_worker_in_place_of_a_dead_one_takes_its_gpu(store, plan, monkeypatch, a_gpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")

    def pool_of(launcher):
        """Return a pool that tends the plan, and whom it has."""
        options = {"max_attempts": None, "claim_timeout": 60.0}
        pool = WorkerPool(store, plan.id, launcher, Slots(4 * a_gpu, gpus=1), **options)

        def tend():
            pool.look()
            pool.tend(take_snapshot(store, plan))
            return pool._alive

        return pool, tend

    def replaced(tend, device):
        """Kill a worker on a device; return where the one in its place is."""
        before = tend()
        dead = next(worker for worker in before if device_of(worker) == device)
        os.kill(pid_of(dead), signal.SIGKILL)
        while Path(f"/proc/{pid_of(dead)}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        (new,) = tend() - before
        return device_of(new)

    pool, tend = pool_of(Sleepers(store.folder / "logs"))
    try:
        assert sorted(map(device_of, tend())) == sorted("0123" * a_gpu)
        assert [replaced(tend, device) for device in "3021"] == list("3021")
        pool, again = pool_of(Sleepers(store.folder / "logs"))  # another supervisor takes them over
        assert [replaced(again, device) for device in "31"] == list("31")
        assert sorted(map(device_of, again())) == sorted("0123" * a_gpu)
    finally:
        pool.stop(at_once=True)


def test_no_visible_gpu_is_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_a_worker_of_another_machine_is_not_ours(tmp_path):
    assert LocalLauncher(tmp_path).alive(["elsewhere/1/123"]) == set()


def test_a_gpu_that_nvidia_smi_does_not_list_may_be_used_unless_hidden(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(gpus, "_DEVICE_FILES", (str(tmp_path / "kfd"),))
    assert not may_use_gpu()
    (tmp_path / "kfd").touch()
    assert may_use_gpu()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not may_use_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert may_use_gpu()
