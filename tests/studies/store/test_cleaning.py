"""What `clean` shows and removes."""

import os
import subprocess
import sys

from made_up import commit_result

from gatera.studies.store.cleaning import removable, remove
from gatera.studies.store.store import Store
from gatera.training.attempt_files import checkpoint_name


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)


def in_use(store, plan):
    """Make a finished trial of two attempts, a waiting one and a running one; return its claim."""
    finished, waiting, running = (trial.key for trial in plan.trials[1:4])
    point = f"checkpoints/{checkpoint_name(20, 'f' * 64)}"
    files = (point, "tmp/scratch", "adapter/adapter_model.safetensors", "metrics.jsonl", "log")
    store.claim(finished, {}).release()
    fill(store.attempt_folder(finished, 1), *files, "predictions.parquet")
    commit_result(store, plan.trials[1], 0.5)
    fill(store.attempt_folder(finished, 2), *files, "answers.jsonl")
    fill(store.trial_folder(finished) / "attempts", ".of_somebody_else")
    store.claim(waiting, {}).release()
    fill(store.attempt_folder(waiting, 1), *files)
    fill(store.trial_folder(waiting), ".claim-left", ".claim-young")
    os.utime(store.trial_folder(waiting) / ".claim-left", (0, 0))  # the other may be in use
    claim = store.claim(running, {})
    fill(store.attempt_folder(running, 1), *files)
    return claim


def test_what_is_needed_stays(store, plan):
    claim = in_use(store, plan)
    finished, waiting, _ = (trial.key for trial in plan.trials[1:4])
    before = {path.relative_to(store.folder) for path in store.folder.rglob("*") if path.is_file()}
    removals = removable(store)
    assert sum(each.size for each in removals) == 8000
    remove(removals)
    after = {path.relative_to(store.folder) for path in store.folder.rglob("*") if path.is_file()}
    point = f"checkpoints/{checkpoint_name(20, 'f' * 64)}"
    gone = {
        *(f"{finished}/attempts/{n}/{name}" for n in (1, 2) for name in (point, "tmp/scratch")),
        f"{finished}/attempts/1/adapter/adapter_model.safetensors",
        f"{finished}/attempts/1/predictions.parquet",
        f"{waiting}/attempts/1/tmp/scratch",
        f"{waiting}/.claim-left",
    }
    assert {str(path) for path in before - after} == {f"trials/{name}" for name in gone}
    assert Store(store.folder).result(finished).attempt == 2
    assert removable(store) == []
    claim.release()


def test_an_attempt_that_may_still_write_is_left_alone(store, plan):
    key = plan.trials[0].key
    stopped = store.claim(key, {})
    store.claims.declare_dead(key, 1, "no progress")
    fill(store.attempt_folder(key, 1), "predictions.parquet", "tmp/scratch")
    commit_result(store, plan.trials[0], 0.5)
    assert removable(store) == []
    stopped.release()
    assert len(removable(store)) == 2


def test_the_command_shows_first_and_removes_when_told(store, plan):
    claim = in_use(store, plan)
    command = [sys.executable, "-m", "gatera.studies", "clean", str(store.folder)]

    def clean(*options):
        done = subprocess.run(
            [*command, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done

    shown = clean()
    assert "checkpoints of a finished trial" in shown.stdout
    assert "0.0 MB  in all, 8 files and folders" in shown.stdout
    assert "nothing was removed; --yes removes them" in shown.stderr
    assert len(removable(store)) == 8
    assert clean("--yes").stdout.endswith("removed\n")
    assert clean().stdout == "nothing to remove\n"
    claim.release()
