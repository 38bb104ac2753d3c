"""What trials' processes share: the collector leaves what was loaded before they were forked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatera.training.provenance.gpus import may_use_gpu

TESTS = Path(__file__).resolve().parents[2]
COUNTING = """
import gc, sys
from pathlib import Path
import made_up_work
from gatera.studies.workers.worker import work

train = made_up_work.train

def score(trial, attempt_dir, **options):
    (attempt_dir / "left_alone").write_text(str(gc.get_freeze_count()))
    return made_up_work.score(trial, attempt_dir, **options)

if __name__ == "__main__":
    rest = {"worker": "us", "max_attempts": None, "claim_timeout": 60.0}
    work(Path(sys.argv[1]), plan_ids=(), runs="counting", preload=("counting",), **rest)
"""


@pytest.mark.skipif(may_use_gpu(), reason="where there is a GPU, trials' processes start anew")
def test_a_trials_process_collects_nothing_that_was_loaded_before_it(store, plan, tmp_path):
    store.write_plan(plan)
    (tmp_path / "counting.py").write_text(COUNTING)
    paths = os.pathsep.join([str(tmp_path), str(TESTS), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, tmp_path / "counting.py", store.folder],
        env=os.environ | {"PYTHONPATH": paths},
        check=True,
    )
    noted = [store.attempt_folder(trial.key, 1) / "left_alone" for trial in plan.trials]
    assert all(int(path.read_text()) > 10_000 for path in noted)
