"""The published files themselves, where GATERA_DATA_ROOT has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gatera import tasks
from gatera.tasks.benchmarks.commonsense_hub import SOURCES
from gatera.tasks.mixture import load_mixture, questions_also_tested

ROOT = Path(os.environ.get("GATERA_DATA_ROOT", "/nonexistent"))
SIZES = {  # (training records, test records)
    "boolq": (9427, 3270),
    "arc_easy": (2251, 2376),
    "arc_challenge": (1119, 1172),
    "openbookqa": (4957, 500),
}

pytestmark = pytest.mark.skipif(
    not (ROOT / "commonsense").is_dir(), reason="GATERA_DATA_ROOT names no data root"
)


@pytest.mark.parametrize("task", SIZES)
def test_sets_have_their_published_sizes_and_answers(task: str) -> None:
    training, testing = SIZES[task]
    held_out = tasks.load(task, "validation", ROOT)
    test = tasks.load(task, "test", ROOT)
    assert len(tasks.load(task, "train", ROOT)) + len(held_out) == training
    assert len(test) == testing
    for example in [*held_out, *test]:
        assert tasks.extract_answer(task, example.output) == example.answer


def test_two_arc_questions_are_dropped() -> None:
    asked = questions_also_tested(list(SIZES), list(SIZES), ROOT)
    left_out = {each for hashes in asked.values() for each in hashes}
    mixture = load_mixture(list(SIZES), 120, ROOT, left_out)
    assert mixture.dropped_items == 2
    assert len(mixture.validation) == 120


def test_hub_wording_of_hellaswag_equals_the_published_records() -> None:
    folder = ROOT / "commonsense" / "hellaswag"
    raw = [json.loads(line) for line in (folder / "val_sample1000.jsonl").read_text().splitlines()]
    worded = {
        (example.instruction, example.output) for example in map(SOURCES["hellaswag"].convert, raw)
    }
    published = json.loads((folder / "test_first24.json").read_text())
    shared = [each for each in published if (each["instruction"], each["output"]) in worded]
    assert len(shared) == 15
