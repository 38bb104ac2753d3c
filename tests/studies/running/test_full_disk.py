"""A real training on a real disk that fills up; needs the right to mount one."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 5 MB, too small for two trials' checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_stops_on_a_full_disk_and_goes_on_when_there_is_room(small_disk, tmp_path):
    command = [sys.executable, "-m", "gatera.studies", "run", "ablation_table5", "--seeds", "1"]
    command += ["--variants", "hira,gatera", "--workers", "2", "--set", "train.batch_size=8"]
    command += ["--set", "train.max_steps=20", "--set", "train.checkpoint_every=5"]
    command += ["--set", "eval.limit=2", "--store", str(small_disk / "store")]
    command += ["--report-dir", str(tmp_path / "reports")]

    def run():
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    full = run()
    assert full.returncode == 2
    assert full.stderr.count("no room left on the disk or quota of") == 1
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    done = run()
    assert done.returncode == 0, done.stderr
    assert "| gatera (reference) | 1 |" in done.stdout
