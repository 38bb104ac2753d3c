"""Workers as jobs of a real SLURM, which runs on this machine alone."""

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from made_up_work import start_run

from gatera.errors import InputError
from gatera.studies.launch.slurm import SlurmLauncher, minutes, parse_options

# How long a job that was queued again waits: until the credentials of its earlier run have expired,
# with which the node would take it for that run. Two minutes, unless a cluster says otherwise.
REQUEUE_SECONDS = 15
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire={requeue_seconds}
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=5
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Cluster:
    """munge, a controller and one node with four slots."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        self.configuration = folder / "slurm.conf"
        self.configuration.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                user=getpass.getuser(),
                folder=folder,
                requeue_seconds=REQUEUE_SECONDS,
                controller_port=free_port(),
                daemon_port=free_port(),
            )
        )
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)

    def start(self):
        at = self.folder
        files = [f"--key-file={at}/munge.key", f"--socket={at}/munge.sock"]
        files += [f"--pid-file={at}/munged.pid", f"--log-file={at}/munged.log"]
        subprocess.run(["munged", "--force", *files, f"--seed-file={at}/munged.seed"], check=True)
        subprocess.run(["slurmctld", "-f", self.configuration], check=True)
        self.start_node()
        deadline = time.monotonic() + 90
        while "idle" not in self.ask("sinfo", "--noheader", "--format=%T"):
            assert time.monotonic() < deadline, (at / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)

    def start_node(self):
        subprocess.run(["slurmd", "-f", self.configuration], check=True)

    def kill_node(self):
        """Kill the node's daemon and all that runs under it, as a crash would."""
        steps = subprocess.run(["pgrep", "slurmstepd"], capture_output=True, text=True, check=False)
        ours = [int(pid) for pid in steps.stdout.split() if self._is_ours(int(pid))]
        for pid in [int((self.folder / "slurmd.pid").read_text()), *ours]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _is_ours(self, pid):
        with contextlib.suppress(OSError):
            return str(self.folder).encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def stop(self):
        self.ask("scancel", "--user", getpass.getuser())
        for name in ("slurmd", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)

    def ask(self, *command):
        environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        asked = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        return asked.stdout

    def jobs(self, state="R"):
        options = ("--noheader", "--array", "--format=%i", "--states", state)
        return self.ask("squeue", *options).split()


@pytest.fixture(scope="module")
def cluster():
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no SLURM here ({', '.join(missing)}): apt-get install slurm-wlm munge")
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'gatera[slurm]'")
    folder = Path(tempfile.mkdtemp(prefix="gatera-slurm-"))  # a socket's path must be short
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def started(cluster, tracked, plan, monkeypatch):
    """A run of the made-up study on the cluster; its processes are ended with the test."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    store = tracked
    store.write_plan(plan)
    # A node whose daemon was killed may be drained since.
    cluster.ask("scontrol", "update", "NodeName=ALL", "State=resume")
    run = start_run(store, engine="slurm", steps=20, pause=0.3)
    yield store, run
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    cluster.ask("scancel", "--user", getpass.getuser())


def wait_for(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return value


def running_steps(store, plan):
    """Return the steps that running trials have done, by key."""
    running = [trial.key for trial in plan.trials if store.is_running(trial.key)]
    progress = {key: store.progress(key, store.claims.newest(key)) for key in running}
    return {key: line["step"] for key, line in progress.items() if line}


def end_of(run, seconds=240):
    deadline = time.monotonic() + seconds
    while run.poll() is None:
        assert time.monotonic() < deadline, "the run does not end"
        time.sleep(0.5)
    return run.communicate()


def test_a_cancelled_job_and_a_dead_node_leave_the_table_complete(cluster, started, plan):
    store, run = started
    wait_for(lambda: len(running_steps(store, plan)) == 2)
    first = cluster.jobs()
    assert len(first) == 2
    assert first[0].partition("_")[0] == first[1].partition("_")[0]  # one array
    # In the first half of both trials: one that ends meanwhile would have nothing to be noted.
    wait_for(lambda: len(done := running_steps(store, plan)) == 2 and max(done.values()) < 10)
    cluster.ask("scancel", first[0])
    # The job leaves the list before its processes hear of it; a node that dies between, with its
    # daemons alone, would leave them at work.
    wait_for(lambda: any(store.record(trial.key, 1) for trial in plan.trials))
    wait_for(lambda: first[0] not in cluster.jobs() and len(running_steps(store, plan)) == 2)
    cluster.kill_node()
    time.sleep(2)
    cluster.start_node()
    counts, said = end_of(run)
    assert run.returncode == 0, said
    assert json.loads(counts)["done"] == 10
    report = (store.folder.parent / "reports" / "made_up.tiny.md").read_text()
    assert "| gatera (reference) | 3 |" in report
    assert "has not run" not in report
    kinds = {
        f.ended
        for t in plan.trials
        for n in (1, 2)
        if (f := store.record(t.key, n)) and f.ended != "finished"
    }
    assert kinds <= {"interrupted", "killed"}
    assert kinds
    assert not cluster.jobs("R")
    assert not cluster.jobs("PD")


def test_a_preempted_job_saves_its_trial_and_is_queued_again(cluster, started, plan):
    store, run = started
    wait_for(lambda: max(running_steps(store, plan).values(), default=0) >= 3)
    job = cluster.jobs()[0]
    cluster.ask("scancel", "--signal=USR2", job)  # what SLURM sends before a time limit, too
    counts, said = end_of(run)
    assert run.returncode == 0, said
    assert json.loads(counts)["done"] == 10
    attempts = [(t.key, n) for t in plan.trials for n in store.claims.attempts(t.key)]
    found = [store.record(*each) for each in attempts]
    ends = [record.ended for record in found if record is not None]
    assert [each for each in ends if each != "finished"] == ["interrupted"]
    ((key, attempt),) = [
        each for each in attempts if (r := store.record(*each)) and r.ended == "interrupted"
    ]
    assert store.claims.owner(key, attempt)["worker"] == job
    assert "Restarts=1" in cluster.ask("scontrol", "show", "job", job)
    workers = json.loads((store.folder / "workers.json").read_text())
    assert {engine: len(ids) for engine, ids in workers.items()} == {"slurm": 2}  # nobody else's


def test_jobs_that_nobody_noted_are_known_by_their_store(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    cluster.ask("scontrol", "update", "NodeName=ALL", "State=resume")
    options = {"time": "5"}
    launcher = SlurmLauncher(tmp_path / "logs", options)
    ids = launcher.start(2, ["sleep", "300"], gpus=0, cpus=1)
    again = SlurmLauncher(tmp_path / "logs", options)
    assert again.known() == set(ids)
    assert SlurmLauncher(tmp_path / "other", options).known() == set()
    again.stop([])
    wait_for(lambda: not again.known())


def test_options_are_read_as_sbatch_has_them():
    text = "partition=gpu,time=4:00:00,nodelist=a,b,--gpus-per-node=2,exclusive="
    assert parse_options(text) == {
        "partition": "gpu",
        "time": "4:00:00",
        "nodelist": "a,b",
        "gpus_per_node": "2",
        "exclusive": "",
    }
    with pytest.raises(InputError, match="--slurm 'gpu' is not key=value"):
        parse_options("gpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("4:00:00", 240), ("0:30", 1), ("61:01", 62), ("2-3", 3060), ("1-0:30", 1470)],
)
def test_time_limits_are_read_as_slurm_writes_them(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["soon", "1:2:3:4", "", "-"])
def test_what_is_no_time_limit_is_refused(text):
    with pytest.raises(InputError, match=r"is not a time limit as SLURM writes it"):
        minutes(text)


def test_a_machine_without_slurm_is_told(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="finds no sbatch and squeue here"):
        SlurmLauncher(tmp_path, {})
