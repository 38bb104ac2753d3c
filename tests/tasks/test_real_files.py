"""The published files themselves, where GATERA_DATA_ROOT has them."""

from __future__ import annotations

import collections
import json
import os
import re
from pathlib import Path

import pytest

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.benchmarks import dialogue
from gatera.tasks.benchmarks.commonsense_hub import SOURCES
from gatera.tasks.example import Example, content_hash
from gatera.tasks.extents import EXTENTS
from gatera.tasks.mixture import load_mixture, questions_also_tested
from gatera.tasks.prompts import render_prompt

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


@pytest.mark.parametrize("task", ["arc_easy", "gsm8k", "xnli_fr", "mgsm_zh", "convai2"])
def test_estimates_know_the_size_of_a_set(task: str) -> None:
    items, extent = tasks.load(task, "test", ROOT), EXTENTS[task]["test"]
    assert len(items) == extent.items
    prompts = [len(render_prompt("alpaca", item)) for item in items]
    assert sum(prompts) / len(items) == pytest.approx(extent.prompt, abs=1)
    assert sum(len(item.output) for item in items) / len(items) == pytest.approx(
        extent.response, abs=1
    )


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


def right_answers(task: str, outputs: list[str]) -> float:
    """Return the share of a test set's items that are right with these outputs."""
    found, items = tasks.find(task), tasks.load(task, "test", ROOT)
    assert len(items) == len(outputs)
    scores = [
        found.metric.of_item(output, found.extract(output), item)
        for output, item in zip(outputs, items, strict=True)
    ]
    return sum(scores) / len(scores)


def test_solutions_of_gsm8k_are_right_unless_their_number_is_changed() -> None:
    train, held_out = (tasks.load("gsm8k", split, ROOT) for split in ("train", "validation"))
    test = tasks.load("gsm8k", "test", ROOT)
    assert (len(train) + len(held_out), len(test)) == (7473, 1319)
    for item in [*train, *held_out, *test]:
        assert tasks.extract_answer("gsm8k", item.output) == item.answer
        assert tasks.extract_answer("gsm8k", item.answer) == item.answer
        assert "<<" not in item.output
    solutions = [item.output for item in test]
    assert right_answers("gsm8k", solutions) == 1.0
    without_marker = [re.sub("####", "so", text) for text in solutions]
    assert right_answers("gsm8k", without_marker) == 1.0
    assert right_answers("gsm8k", [f"{text}1" for text in solutions]) == 0.0


def test_golds_of_llm_adapters_are_those_of_gsm8k() -> None:
    records = json.loads((ROOT / "gsm8k" / "llm_adapters_test.json").read_text())
    golds = {content_hash(Example(each["instruction"], "", "", "")): each for each in records}
    items = tasks.load("gsm8k", "test", ROOT)
    answers = [golds[content_hash(item)]["answer"] for item in items if content_hash(item) in golds]
    assert right_answers("gsm8k", answers) == 1.0


def test_metamaths_copy_of_the_test_set_is_scored_alike() -> None:
    lines = (ROOT / "metamath" / "GSM8K_test.jsonl").read_text().splitlines()
    assert right_answers("gsm8k", [json.loads(line)["response"] for line in lines]) == 1.0


@pytest.mark.parametrize("language", ["en", "de", "fr", "zh"])
def test_inference_has_three_balanced_hypotheses_a_premise(language: str) -> None:
    items = tasks.load(f"xnli_{language}", "test", ROOT)
    assert collections.Counter(item.answer for item in items) == {
        "entailment": 1670,
        "neutral": 1670,
        "contradiction": 1670,
    }
    by_premise = [items[start : start + 3] for start in range(0, 5010, 3)]
    assert {len({item.answer for item in each}) for each in by_premise} == {3}
    assert [{item.cluster for item in each} for each in by_premise] == [
        {f"premise {number}"} for number in range(1, 1671)
    ]
    assert right_answers(f"xnli_{language}", [item.output for item in items]) == 1.0


def test_the_english_development_set_is_read_whole() -> None:
    splits = [tasks.load("xnli_en", split, ROOT) for split in ("train", "validation")]
    assert sum(map(len, splits)) == 1500
    assert questions_also_tested(["xnli_en"], ["xnli_en"], ROOT) == {}


@pytest.mark.parametrize("language", ["en", "de", "fr", "zh", "sw"])
def test_sums_are_the_same_in_every_language(language: str) -> None:
    items = tasks.load(f"mgsm_{language}", "test", ROOT)
    assert len(items) == 250
    english = tasks.load("mgsm_en", "test", ROOT)
    assert [item.answer for item in items] == [item.answer for item in english]
    assert [items[line].answer for line in (146, 201, 230, 249)] == [
        "2125",
        "114200",
        "276000",
        "5600",
    ]
    assert right_answers(f"mgsm_{language}", [item.output for item in items]) == 1.0
    assert right_answers(f"mgsm_{language}", [f"{item.output}1" for item in items]) == 0.0


def test_every_exchange_of_the_dialogues_is_an_item() -> None:
    items = tasks.load("convai2", "test", ROOT)
    assert len(items) == 7801
    assert len({item.cluster for item in items}) == 1000
    first_turns = [item for item in items if item.instruction.count("\npartner: ") == 1]
    assert sum(item.instruction.count("\nyour persona: ") for item in first_turns) == 4483
    assert max(len(item.output.split()) for item in items) == 24
    assert right_answers("convai2", [item.output for item in items]) == 1.0


def test_the_published_sample_of_training_dialogues_is_read_whole() -> None:
    sample = ROOT / "convai2" / "train_self_original_no_cands.head.txt"
    items = dialogue._read_dialogues(sample)
    assert (len(items), len({item.cluster for item in items})) == (66, 9)
    with pytest.raises(InputError, match="which does not exist"):
        tasks.load("convai2", "train", ROOT)
