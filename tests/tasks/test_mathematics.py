"""GSM8K and MetaMathQA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.example import Example, content_hash
from gatera.tasks.mixture import load_mixture, questions_also_tested


@pytest.fixture(autouse=True)
def no_root_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATERA_DATA_ROOT", raising=False)


def put_gsm8k(root: Path, split: str, records: list[tuple[str, str]]) -> Path:
    path = root / "gsm8k" / f"{split}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in records))
    return path


def metamath(query: str, original: str, response: str = "so.\nThe answer is: 1") -> dict[str, str]:
    return {"type": "t", "query": query, "original_question": original, "response": response}


def put_metamath(root: Path, records: Any) -> None:
    (root / "metamath").mkdir(exist_ok=True)
    (root / "metamath" / "MetaMathQA-395K.json").write_text(json.dumps(records))


def test_a_solution_loses_its_calculator_marks(tmp_path: Path) -> None:
    solution = "48/2 = <<48/2=24>>24 clips, $<<1*1200=1200>>1,200.\n#### 1,200"
    put_gsm8k(tmp_path, "test", [("How many?", solution)])
    expected = Example("How many?", "", "48/2 = 24 clips, $1,200.\n#### 1,200", "1200")
    assert tasks.load("gsm8k", "test", tmp_path) == [expected]


def test_the_training_file_holds_items_out(tmp_path: Path) -> None:
    put_gsm8k(tmp_path, "train", [(f"q{n}", f"#### {n}") for n in range(150)])
    train, held_out = (tasks.load("gsm8k", split, tmp_path) for split in ("train", "validation"))
    assert (len(train), len(held_out)) == (30, 120)
    assert {example.answer for example in [*train, *held_out]} == {str(n) for n in range(150)}


def test_a_solution_without_a_number_is_refused(tmp_path: Path) -> None:
    path = put_gsm8k(tmp_path, "test", [("q", "#### 1"), ("r", "2\n#### two")])
    with pytest.raises(InputError, match=r"line 2: the solution ends in no number") as refused:
        tasks.load("gsm8k", "test", tmp_path)
    assert str(path) in str(refused.value)


def test_equal_numbers_are_right_and_others_wrong() -> None:
    task = tasks.find("gsm8k")
    example = Example("q", "", "#### 576", "576")
    for output, right in (("It is 576.0.", 1.0), ("#### 577", 0.0), ("many", 0.0), ("$576", 1.0)):
        assert task.metric.of_item(output, task.extract(output), example) == right
    assert task.metric.has_right_answers
    assert task.max_new_tokens == 256


def test_metamath_is_trained_on_alone(tmp_path: Path) -> None:
    records = [metamath(f"q{n}", f"o{n}") for n in range(125)]
    records[0]["response"] = "The answer is: \\text{Evelyn}"
    records[1]["response"] = "nothing"
    put_metamath(tmp_path, records)
    items = tasks.load("metamath", "train", tmp_path) + tasks.load(
        "metamath", "validation", tmp_path
    )
    found = {item.instruction: item for item in items}
    assert len(found) == 125
    assert found["q2"] == Example("q2", "", "so.\nThe answer is: 1", "1", made_of=("o2",))
    assert found["q0"].answer == "\\text{evelyn}"
    assert tasks.extract_answer("metamath", found["q0"].output) == found["q0"].answer
    assert found["q1"].answer == ""
    assert "metamath" not in tasks.names()
    with pytest.raises(InputError, match="metamath is a training set and has no test split"):
        tasks.load("metamath", "test", tmp_path)


def test_what_is_made_of_a_tested_question_neither_trains_nor_validates(tmp_path: Path) -> None:
    put_gsm8k(tmp_path, "test", [("How MANY  eggs?", "#### 1"), ("Which?", "#### 2")])
    records = [metamath(f"q{n}", f"o{n}") for n in range(300)]
    for number in range(0, 300, 3):
        records[number]["original_question"] = "How many eggs?"
    put_metamath(tmp_path, records)
    shared = questions_also_tested(["metamath"], ["gsm8k"], tmp_path)
    assert shared == {"gsm8k": [content_hash(Example("how many eggs?", "", "", ""))]}
    mixture = load_mixture(["metamath"], 50, tmp_path, shared["gsm8k"])
    used = {item.example.instruction for item in mixture.train + mixture.validation}
    assert len(mixture.validation) == 50
    assert not used & {f"q{number}" for number in range(0, 300, 3)}
    assert mixture.dropped_items == len(tasks.load("metamath", "train", tmp_path)) - len(
        mixture.train
    )


def test_no_rewording_of_a_validation_question_trains(tmp_path: Path) -> None:
    put_metamath(tmp_path, [metamath(f"q{n}", f"o{n // 4}") for n in range(1600)])
    mixture = load_mixture(["metamath"], 100, tmp_path)
    validated = {item.example.made_of for item in mixture.validation}
    assert not validated & {item.example.made_of for item in mixture.train}
    assert mixture.dropped_items > 100


def test_what_an_item_is_made_of_is_no_part_of_its_hash() -> None:
    assert content_hash(Example("q", "", "", "", made_of=("o",))) == content_hash(
        Example("q", "", "", "")
    )


def test_hub_records_become_the_same_items(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(*where: Any, **options: Any) -> Any:
            asked.append((*where, options["split"]))
            return [{"question": "q", "answer": "<<1=1>>1\n#### 1"} | metamath("q", "o")]

    monkeypatch.setitem(__import__("sys").modules, "datasets", Datasets)
    assert tasks.load("gsm8k", "test") == [Example("q", "", "1\n#### 1", "1")]
    assert tasks.load("metamath", "validation")[0].made_of == ("o",)
    assert asked == [("openai/gsm8k", "main", "test"), ("meta-math/MetaMathQA", None, "train")]
