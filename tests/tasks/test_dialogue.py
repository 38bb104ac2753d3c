"""ConvAI2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.example import Example

TEXT = """\
1 your persona: i like tea.
2 your persona: i am old.
3 hello .\thi , you ?
4 fine . your persona: odd\ti see .
1 who are you ?\tnobody .
"""


@pytest.fixture(autouse=True)
def no_root_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATERA_DATA_ROOT", raising=False)


def put(root: Path, text: str, name: str = "valid_self_original_no_cands.txt") -> Path:
    path = root / "convai2" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def item(instruction: str, reply: str, dialogue: int) -> Example:
    return Example(instruction, "", reply, reply, cluster=f"dialogue {dialogue}")


def test_each_exchange_is_an_item_with_all_that_was_said_before(tmp_path: Path) -> None:
    put(tmp_path, TEXT)
    lead = "Give your next reply in the dialogue.\n\n"
    persona = "your persona: i like tea.\nyour persona: i am old.\n\n"
    said = "partner: hello .\nyou: hi , you ?\npartner: fine . your persona: odd"
    assert tasks.load("convai2", "test", tmp_path) == [
        item(f"{lead}{persona}partner: hello .", "hi , you ?", 1),
        item(f"{lead}{persona}{said}", "i see .", 1),
        item(f"{lead}partner: who are you ?", "nobody .", 2),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 a\tb\n", "line 1: is numbered 2; expected 1"),
        ("1 a\tb\n3 a\tb\n", "line 2: is numbered 3; expected 2, or 1 where a dialogue begins"),
        ("1 a\tb\nyour persona: x\n", "line 2: expected a number, a space and a text, found 'your"),
        ("1 a\tb\n2\n", "line 2: expected a number, a space"),
        ("1 a\tb\n2 your persona: late\n", "line 2: expected the partner's turn, a tab and the re"),
        ("1 a\tb\n2 a\n", "line 2: expected the partner's turn, a tab and the reply, found 'a'"),
        ("1 a\tb\n2 a\t \n", "line 2: expected the partner's turn"),
        ("1 a\tb\t\tc|b\n", "line 1: expected the partner's turn.*candidates"),
        ("1 a\tb\n\n", "line 2: expected a number"),
        ("", "is empty"),
    ],
)
def test_malformed_lines_are_told_with_their_place(text: str, message: str, tmp_path: Path) -> None:
    path = put(tmp_path, text)
    with pytest.raises(InputError, match=message) as refused:
        tasks.load("convai2", "test", tmp_path)
    assert str(path) in str(refused.value)


def test_a_sample_is_never_read_as_the_training_set(tmp_path: Path) -> None:
    put(tmp_path, TEXT, "train_self_original_no_cands.head.txt")
    with pytest.raises(InputError, match=r"looked for at .*/train_self_original_no_cands\.txt, wh"):
        tasks.load("convai2", "train", tmp_path)


def test_the_training_file_holds_items_out(tmp_path: Path) -> None:
    lines = "".join(f"1 question {number}\tanswer\n" for number in range(125))
    put(tmp_path, lines, "train_self_original_no_cands.txt")
    assert len(tasks.load("convai2", "train", tmp_path)) == 5
    assert len(tasks.load("convai2", "validation", tmp_path)) == 120


def test_a_reply_is_worth_its_closeness() -> None:
    task = tasks.find("convai2")
    right = item("q", "the cat sat on the mat", 1)
    for output, worth in ((" the cat on mat\n", 0.8), (right.output, 1.0), (" \n", 0.0)):
        read = task.extract(output)
        assert read == (output.strip() or None)
        assert task.metric.of_item(output, read, right) == pytest.approx(worth)
    assert task.metric.name == "rouge_l"
    assert not task.metric.has_right_answers
    assert task.chance is None


def test_scores_of_all_replies_have_a_value_or_a_reason() -> None:
    measure = tasks.find("convai2").corpus_metrics
    assert measure is not None
    scores = measure(["i see .", ""], ["i see the cat .", "hello"])
    assert list(scores) == [
        "bleu",
        "bert_precision",
        "bert_recall",
        "bert_f1",
        "meteor_exact_stem",
        "distinct_1",
        "distinct_2",
    ]
    for score in scores.values():
        assert score.note if score.value is None else 0 <= score.value <= 1


def test_the_tasks_load_no_library_of_metrics() -> None:
    program = (
        "import sys; from gatera import tasks;"
        "print(sorted({'sacrebleu', 'nltk', 'rouge_score', 'numpy', 'torch'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
