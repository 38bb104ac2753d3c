import sys
import time

from gatera.studies.launch.local import LocalLauncher
from gatera.training import gpus
from gatera.training.gpus import may_use_gpu, visible_gpus

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
