"""A real pretrained model on real benchmark files: minutes, and the wheel of SmolLM2 once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = os.environ.get("GATERA_DATA_ROOT")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason="GATERA_DATA_ROOT names no benchmark files"),
]
SHORT = ["train.max_steps=2", "train.batch_size=4", "eval.limit=4", "train.validation_items=8"]


def run_small(folder: Path, *options: str, study: str = "ablation_table5") -> dict:
    sets = [word for setting in SHORT for word in ("--set", setting)]
    options = (study, "--scale", "small", "--seeds", "1", *sets, *options)
    base = [sys.executable, "-m", "gatera.studies"]
    subprocess.run([*base, "run", *options], cwd=folder, check=True, timeout=3000)
    report = subprocess.run(
        [*base, "report", *options, "--json"], cwd=folder, check=True, capture_output=True
    )
    return {row["variant"]: row for row in json.loads(report.stdout)["rows"]}


def test_smollm2_is_tuned_and_scored_on_real_questions(tmp_path):
    rows = run_small(tmp_path, "--variants", "hira", "--data-root", ROOT)
    assert set(rows) == {"frozen", "hira"}
    assert set(rows["hira"]["scores"]) == {"boolq", "arc_easy", "arc_challenge", "openbookqa"}


def test_tasks_without_training_files_are_scored(tmp_path):
    """PIQA, SIQA and WinoGrande: test files alone, beside the training files of other tasks."""
    data = tmp_path / "data"
    shutil.copytree(Path(ROOT) / "commonsense", data / "commonsense")
    for folder, word in (("piqa", "solution"), ("social_i_qa", "answer"), ("winogrande", "option")):
        (data / "commonsense" / folder).mkdir()
        records = [
            {
                "instruction": f"Choose {n}.\n\nAnswer format: {word}1/{word}2",
                "input": "",
                "output": f"the correct answer is {word}1",
                "answer": f"{word}1",
            }
            for n in range(6)
        ]
        (data / "commonsense" / folder / "test.json").write_text(json.dumps(records))
    options = ("--variants", "hira", "--tasks", "piqa,siqa,winogrande", "--data-root", str(data))
    rows = run_small(tmp_path, *options)
    assert set(rows["hira"]["scores"]) == {"piqa", "siqa", "winogrande"}


def test_grade_school_mathematics_is_trained_and_tested_on(tmp_path):
    options = ("--variants", "lora", "--data-root", ROOT)
    rows = run_small(tmp_path, *options, study="math_table3")
    assert set(rows) == {"frozen", "lora"}
    for row in rows.values():
        assert set(row["scores"]) == {"gsm8k"}
        assert 0 <= row["scores"]["gsm8k"] <= 1
        assert 0 <= row["no_keyword"]["gsm8k"] <= 1


def test_what_english_taught_is_tested_in_other_languages(tmp_path):
    rows = run_small(tmp_path, "--data-root", ROOT, study="multilingual")
    languages = ("en", "de", "fr", "zh")
    tasks = [f"xnli_{name}" for name in languages] + [f"mgsm_{name}" for name in (*languages, "sw")]
    assert set(rows) == {"frozen", "hira", "gatera"}
    for row in rows.values():
        assert list(row["scores"]) == tasks
        assert all(score is not None for score in row["scores"].values())
    gates = rows["gatera"]["gates"]["tasks"]
    assert list(gates) == tasks
    for of_task in gates.values():
        assert 0 < of_task["prompt"]["mean"] < 1
