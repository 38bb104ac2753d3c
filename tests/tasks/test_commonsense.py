"""Reading the commonsense benchmarks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.benchmarks import commonsense, commonsense_hub
from gatera.tasks.benchmarks.instructions import with_options
from gatera.tasks.example import Example, content_hash
from gatera.tasks.mixture import load_mixture, questions_also_tested

FOLDERS = {
    "boolq": "boolq",
    "piqa": "piqa",
    "siqa": "social_i_qa",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "openbookqa": "openbookqa",
}


def record(text: str, answer: str = "true") -> dict[str, str]:
    return {"instruction": text, "input": "", "output": f"it is {answer}", "answer": answer}


def put(root: Path, folder: str, name: str, records: Any) -> Path:
    path = root / "commonsense" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return path


@pytest.fixture(autouse=True)
def no_root_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATERA_DATA_ROOT", raising=False)


@pytest.mark.parametrize(("task", "folder"), FOLDERS.items())
def test_each_benchmark_is_read_from_its_folder(task: str, folder: str, tmp_path: Path) -> None:
    put(tmp_path, folder, "test.json", [record("a"), record("b", "false")])
    assert tasks.load(task, "test", tmp_path) == [
        Example("a", "", "it is true", "true"),
        Example("b", "", "it is false", "false"),
    ]


def test_the_root_comes_from_the_environment_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "one", "boolq", "test.json", [record("one")])
    put(tmp_path / "two", "boolq", "test.json", [record("two")])
    monkeypatch.setenv("GATERA_DATA_ROOT", str(tmp_path / "one"))
    assert tasks.load("boolq", "test")[0].instruction == "one"
    assert tasks.load("boolq", "test", tmp_path / "two")[0].instruction == "two"
    monkeypatch.setenv("GATERA_DATA_ROOT", str(tmp_path / "none"))
    with pytest.raises(
        InputError, match=r"none \(from GATERA_DATA_ROOT\) is not a folder; give the one"
    ):
        tasks.load("boolq", "test")


def test_a_training_file_is_split_by_hash(tmp_path: Path) -> None:
    records = [record(f"question {number}") for number in range(200)]
    put(tmp_path, "boolq", "train.json", [*records, record("Question  7")])
    train = tasks.load("boolq", "train", tmp_path)
    held_out = tasks.load("boolq", "validation", tmp_path)
    assert len(train) + len(held_out) == 201
    digests = sorted(
        hashlib.sha256(f"question {number}".encode()).hexdigest() for number in range(200)
    )
    assert {content_hash(example) for example in held_out} == set(digests[:120])
    assert {content_hash(example) for example in train} == set(digests[120:])


def test_a_cut_file_is_never_read_as_the_set(tmp_path: Path) -> None:
    put(tmp_path, "hellaswag", "test_first24.json", [record("a")])
    with pytest.raises(InputError) as refused:
        tasks.load("hellaswag", "test", tmp_path)
    assert str(tmp_path / "commonsense" / "hellaswag" / "test.json") in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not a JSON file in UTF-8"),
        ("{}", "holds an object; expected a non-empty JSON array"),
        ("[]", "holds an empty array; expected a non-empty"),
        ([record("a"), "b"], "record 2: expected an object .* found text"),
        ([record("a"), record("b"), {"instruction": "c"}], "record 3: the field 'input' is miss"),
        ([{**record("a"), "answer": True}], "record 1: the field 'answer' must be text, found a t"),
        ([{**record("a"), "output": None}], "record 1: the field 'output' must be text, found nul"),
        ([record("a"), record(" ")], "record 2: the field 'instruction' is empty"),
    ],
)
def test_malformed_files_are_told_with_their_record(
    content: Any, message: str, tmp_path: Path
) -> None:
    path = put(tmp_path, "boolq", "test.json", content)
    with pytest.raises(InputError, match=message) as refused:
        tasks.load("boolq", "test", tmp_path)
    assert str(path) in str(refused.value)


def test_without_a_root_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"GATERA_DATA_ROOT.*ybisk/piqa.*gatera\[hub\]"):
        tasks.load("piqa", "test")


def test_a_hub_that_fails_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Datasets:
        @staticmethod
        def load_dataset(*args: Any, **options: Any) -> Any:
            raise ConnectionError("no route\nto host")

    monkeypatch.setitem(__import__("sys").modules, "datasets", Datasets)
    with pytest.raises(InputError, match=r"google/boolq.*ConnectionError: no route\); give"):
        tasks.load("boolq", "test")


def test_the_joint_training_set_has_no_test_split(tmp_path: Path) -> None:
    path = tmp_path / "commonsense" / "commonsense_170k.json"
    path.parent.mkdir()
    path.write_text(json.dumps([record(f"q{number}") for number in range(130)]))
    assert len(tasks.load("commonsense_170k", "train", tmp_path)) == 10
    with pytest.raises(InputError, match="has no test split"):
        tasks.load("commonsense_170k", "test", tmp_path)
    with pytest.raises(InputError, match="unknown split 'dev'; expected one of train, validation"):
        tasks.load("boolq", "dev", tmp_path)


@pytest.mark.parametrize(
    ("instruction", "output", "answer", "options"),
    [
        (
            "is it?\n\nAnswer format: true/false",
            "it is true",
            "true",
            ("it is true", "it is false"),
        ),
        ("q\nAnswer format: a1/a2/a3 ", "so a2", "a2", ("so a1", "so a2", "so a3")),
        ("what?", "it is true", "true", ()),  # no list
        ("Answer format: yes/no\n\nis it?", "yes", "yes", ()),  # not at its end
        ("is it?\n\nAnswer format: true/false", "it is maybe", "maybe", ()),  # not in the list
        ("is it?\n\nAnswer format: true/false", "true, it is", "true", ()),  # ends otherwise
        ("is it?\n\nAnswer format: true/true", "true", "true", ()),  # no choice
        ("is it?\n\nAnswer format: true", "true", "true", ()),
    ],
)
def test_options_are_those_that_the_instruction_lists(
    instruction: str, output: str, answer: str, options: tuple[str, ...]
) -> None:
    found = with_options(Example(instruction, "", output, answer))
    assert found == Example(instruction, "", output, answer, options)


def test_the_fingerprint_is_the_hash_of_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, "boolq", "test.json", [record("a")])
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert tasks.fingerprint("boolq", "test", tmp_path) == expected
    with pytest.raises(InputError, match="train split was looked for"):
        tasks.fingerprint("boolq", "train", tmp_path)


def test_test_questions_neither_train_nor_validate(tmp_path: Path) -> None:
    records = [record(f"question {number}") for number in range(300)]
    put(tmp_path, "boolq", "train.json", records)
    put(tmp_path, "boolq", "test.json", [record(f"QUESTION   {n}") for n in range(0, 300, 3)])
    put(tmp_path, "piqa", "test.json", [record("question 1"), record("of its own")])
    shared = questions_also_tested(["boolq"], ["boolq", "piqa"], tmp_path)
    assert {task: len(hashes) for task, hashes in shared.items()} == {"boolq": 100, "piqa": 1}
    left_out = [each for hashes in shared.values() for each in hashes]
    mixture = load_mixture(["boolq"], 50, tmp_path, left_out)
    tested = {f"question {number}" for number in range(0, 300, 3)} | {"question 1"}
    trained = {item.example.instruction for item in mixture.train}
    validated = {item.example.instruction for item in mixture.validation}
    assert len(validated) == 50
    assert not (trained | validated) & tested
    assert not trained & validated
    assert mixture.dropped_items == 180 - len(trained)


def test_scored_tasks_need_no_training_file(tmp_path: Path) -> None:
    put(tmp_path, "boolq", "train.json", [record(f"question {number}") for number in range(150)])
    put(tmp_path, "winogrande", "test.json", [record("w", "option1")])
    assert questions_also_tested(["boolq"], ["winogrande"], tmp_path) == {}
    mixture = load_mixture(["boolq"], 120, tmp_path)
    assert len(mixture.train) == 30
    with pytest.raises(InputError, match=r"validation_items is 121, but .* hold out only 120"):
        load_mixture(["boolq"], 121, tmp_path)


def test_a_question_of_two_training_tasks_does_not_validate_and_train(tmp_path: Path) -> None:
    records = [record(f"question {number}") for number in range(1000)]
    put(tmp_path, "boolq", "train.json", records[:200])
    put(tmp_path, "piqa", "train.json", records)
    put(tmp_path, "boolq", "test.json", [record("t")])
    mixture = load_mixture(["boolq", "piqa"], 200, tmp_path)
    trained = {item.example.instruction for item in mixture.train}
    assert not trained & {item.example.instruction for item in mixture.validation}
    assert mixture.dropped_items > 0


RAW = {
    "boolq": {"question": "is it", "answer": True, "passage": "p"},
    "piqa": {"goal": "g", "sol1": "s", "sol2": "t", "label": 1},
    "siqa": {
        "context": "c",
        "question": "q",
        "answerA": "x",
        "answerB": "y",
        "answerC": "z",
        "label": "3",
    },
    "hellaswag": {"activity_label": "A", "ctx": "c", "endings": list("wxyz"), "label": "2"},
    "winogrande": {"sentence": "s _", "option1": "x", "option2": "y", "answer": "1"},
    "arc_easy": {
        "question": "q",
        "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "openbookqa": {
        "question_stem": "q",
        "choices": {"text": list("wxyz"), "label": list("ABCD")},
        "answerKey": "D",
    },
}


@pytest.mark.parametrize(
    ("task", "instruction", "answer"),
    [
        (
            "boolq",
            "Please answer the following question with true or false, question: is it?\n\n"
            "Answer format: true/false",
            "true",
        ),
        (
            "piqa",
            "Please choose the correct solution to the question: g\n\n"
            "Solution1: s Solution2: t\n\nAnswer format: solution1/solution2",
            "solution2",
        ),
        (
            "siqa",
            "Please choose the correct answer to the question: c q\n\n"
            "Answer1: x Answer2: y Answer3: z\n\nAnswer format: answer1/answer2/answer3",
            "answer3",
        ),
        (
            "hellaswag",
            "Please choose the correct ending to complete the given sentence: A: c\n\n"
            "Ending1: w Ending2: x Ending3: y Ending4: z\n\n"
            "Answer format: ending1/ending2/ending3/ending4",
            "ending3",
        ),
        (
            "winogrande",
            "Please choose the correct answer to fill in the blank to complete the given "
            "sentence: s _\n\nOption1: x Option2: y\n\nAnswer format: option1/option2",
            "option1",
        ),
        (
            "arc_easy",
            "Please choose the correct answer to the question: q\n\n"
            "Answer1: x Answer2: y Answer3: z\n\nAnswer format: answer1/answer2/answer3",
            "answer2",
        ),
        (
            "openbookqa",
            "Please choose the correct answer to the question: q\n\n"
            "Answer1: w Answer2: x Answer3: y Answer4: z\n\n"
            "Answer format: answer1/answer2/answer3/answer4",
            "answer4",
        ),
    ],
)
def test_hub_records_are_worded_as_the_published_files(
    task: str, instruction: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Datasets:
        @staticmethod
        def load_dataset(*args: Any, **options: Any) -> Any:
            return [RAW[task]]

    monkeypatch.setitem(__import__("sys").modules, "datasets", Datasets)
    formats = instruction.rpartition("Answer format: ")[2].split("/")
    options = tuple(f"the correct answer is {each}" for each in formats)
    expected = Example(instruction, "", f"the correct answer is {answer}", answer, options)
    assert tasks.load(task, "test") == [expected]
    assert len(tasks.fingerprint(task, "test")) == 64


def test_every_benchmark_has_a_hub_source() -> None:
    assert set(commonsense_hub.SOURCES) == set(commonsense.TASKS) == {*FOLDERS, "commonsense_170k"}
    assert set(commonsense.BENCHMARKS) == set(FOLDERS)
