"""Reading answers out of generated text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.answers import first_keyword


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        ("boolq", "The correct answer is TRUE.", "true"),
        ("boolq", "not false but true", "false"),
        ("boolq", "untrue, truly, falsehood", None),
        ("boolq", "", None),
        ("piqa", "the correct answer is solution2", "solution2"),
        ("siqa", "answer3", "answer3"),
        ("arc_easy", "(Answer5)", "answer5"),
        ("arc_challenge", "answer12 or answer1", "answer1"),
        ("openbookqa", "answer6", None),
        ("hellaswag", "the ending is ending4/ending1", "ending4"),
        ("winogrande", "Option1: option2", "option1"),
        ("winogrande", "option 1", None),
    ],
)
def test_the_first_whole_keyword_is_the_answer(task: str, text: str, expected: str | None) -> None:
    assert tasks.extract_answer(task, text) == expected


def test_a_longer_keyword_wins_over_one_that_begins_it() -> None:
    assert first_keyword("new york", ("new", "new york")) == "new york"


@given(st.text(alphabet="aAbB 12_.", max_size=12))
def test_extraction_agrees_with_a_search_word_by_word(text: str) -> None:
    words = re.findall(r"\w+", text.lower())
    expected = next((word for word in words if word in {"a", "ab", "b1"}), None)
    assert first_keyword(text, ("a", "ab", "b1")) == expected


def test_an_unknown_task_is_told_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown task 'bolq'; known tasks: boolq, piqa"):
        tasks.extract_answer("bolq", "true")


def test_chance_is_one_over_the_usual_number_of_choices() -> None:
    real = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "openbookqa")
    assert [tasks.find(task).chance for task in real] == [0.5, 0.5, 1 / 3, 0.25, 0.5, 0.25, 0.25]
