"""Reading the number that a solution ends in."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatera.tasks.benchmarks.final_number import final_answer, final_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("eighteen", None),
        ("is 18.", "18"),
        ("18, or 19?", "19"),  # without a marker: the last
        ("so 5 + 13 = 18 eggs", "18"),
        ("576.0", "576"),
        ("007", "7"),
        ("0.10", "1/10"),
        (".5", "1/2"),
        ("wait...5", "5"),
        ("No.5", "5"),
    ],
)
def test_the_last_number_of_a_text_counts(text: str, expected: str | None) -> None:
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 eggs\n#### 18", "18"),
        ("#### 5,600\nHe has 3 left.", "5600"),  # after a marker: the first
        ("The answer is: 18. It was 3.", "18"),
        ("THE ANSWER IS 9 of 10", "9"),
        ("The answer is: 4. No, the answer is: 5. 6", "5"),  # after the last of two
        ("#### 18\nThe answer is: 19", "19"),
        ("#### none of the 5", "5"),
        ("It is 5. The answer is", None),
        ("It is 5. #### ", None),
        ("bathe answer is 3, 7", "7"),  # within words
        ("the answer isn't 5 but 6", "6"),
        ("### 5 and 6", "6"),
        ("##### 5 and 6", "6"),
        ("Die Antwort ist 11. 12", "11"),
        ("La réponse est 11. 12", "11"),
        ("La re\u0301ponse est 11. 12", "11"),
        ("Jibu ni 11. 12", "11"),
        ("所以答案是 11。12", "11"),
        ("答案是18个", "18"),
    ],
)
def test_the_first_number_after_the_last_marker_counts(text: str, expected: str | None) -> None:
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.50", "2469/2"),
        ("1.234,50", "2469/2"),
        ("1,234,567", "1234567"),
        ("1.234.567", "1234567"),
        ("1\u202f234,5", "2469/2"),
        ("1\u00a0234", "1234"),
        ("1 234", "234"),  # two numbers
        ("1.234", "617/500"),
        ("3,50", "7/2"),
        ("0,125", "1/8"),
        ("1, 2", "2"),
        ("5 and 1,2,3", "5"),  # a list without spaces is none
        ("5 and 12,34,567", "5"),
        ("5 on 12.10.2020", "5"),
        ("5 on 1/2/2020", "5"),
    ],
)
def test_separators_are_read_with_care(text: str, expected: str) -> None:
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-5", "-5"),
        ("−5", "-5"),
        ("–5", "-5"),
        ("\u20115", "-5"),
        ("－５", "-5"),
        ("x=-3", "-3"),
        ("(-3)", "-3"),
        ("+5", "5"),
        ("-0", "0"),
        ("10-20", "20"),
        ("10–20", "20"),
        ("10 - 20", "20"),
        ("(10)-20", "20"),
        ("50%-20%", "20"),
        ("a-3", "3"),
        ("$18", "18"),
        ("\\$18", "18"),
        ("-$18.00", "-18"),
        ("-\\$18", "-18"),
        ("$-18", "-18"),
        ("US$18", "18"),
        ("€ 18", "18"),
        ("18 dollars", "18"),
        ("18€", "18"),
        ("50%", "50"),
        ("5kg", "5"),
        ("the 2nd", "2"),
        ("**18**", "18"),
        ("\\boxed{18}", "18"),
        ("5 x2 B12", "5"),
        ("5x²", "5"),
    ],
)
def test_signs_units_and_currency(text: str, expected: str) -> None:
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3/4", "3/4"),
        ("6/8", "3/4"),
        ("0.75", "3/4"),
        ("8/4", "2"),
        ("-3/4", "-3/4"),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        ("2 5/3", "5/3"),  # two numbers
        ("½", "1/2"),
        ("1½", "3/2"),
        ("-½", "-1/2"),
        ("\\frac{3}{4}", "3/4"),
        ("\\dfrac{-3}{4}", "-3/4"),
        ("1\\frac{1}{2}", "3/2"),
        ("7 and 3/0", "7"),
        ("7 and 5.5/2", "7"),
        ("60 miles/2 hours", "2"),
    ],
)
def test_fractions_are_exact(text: str, expected: str) -> None:
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("٣٤", "34"),
        ("١٬٢٣٤٫٥", "2469/2"),
        ("１２３", "123"),
        ("१२", "12"),
        ("共有１８个", "18"),
        ("7²", "7"),
    ],
)
def test_digits_are_those_of_any_script(text: str, expected: str) -> None:
    assert final_number(text) == expected


def test_a_number_without_end_is_none() -> None:
    assert final_number("5 and " + "9" * 100_000) == "5"
    assert final_number("9" * 99) == "9" * 99


@given(st.fractions(max_denominator=50), st.sampled_from(["{}", "#### {}", "it is {} or so."]))
def test_the_canonical_text_reads_as_itself(value: Fraction, form: str) -> None:
    assert final_number(form.format(value)) == str(value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3), st.booleans())
def test_decimals_with_and_without_thousands_are_the_same(value: object, grouped: bool) -> None:
    text = f"{value:,}" if grouped else f"{value:f}"
    if len(text) < 80:
        assert final_number(f"so ${text}.") == str(Fraction(str(value)))


@given(st.text(alphabet="0123456789.,/- $½٣²#\\fracx{}\u00a0", max_size=40))
def test_any_text_is_read(text: str) -> None:
    number = final_number(text)
    assert number is None or str(Fraction(number)) == number
    final_answer(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 5.\nThe answer is: 18", "18"),
        ("The answer is: 1,234.50.", "2469/2"),
        ("#### 18\nThe answer is: .5", "1/2"),
        ("The answer is: \\frac{6}{8}", "3/4"),
        ("The answer is: 3\\sqrt{2}", "3\\sqrt{2}"),
        ("The answer is: (A)  Both ", "(a) both"),
        ("The answer is: 1 2", "1 2"),
        ("The answer is: 2 5/3", "2 5/3"),
        ("5", None),
        ("5. The answer is: ", None),
    ],
)
def test_an_answer_that_is_no_number_is_its_text(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected
