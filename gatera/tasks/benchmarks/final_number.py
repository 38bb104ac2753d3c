"""Reading the number that a worked solution ends in.

Numbers are exact: no float is made of them. Equal numbers have one canonical text, that of the
fraction in lowest terms: "18", "-5", "37/2".
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

# What stands before the answer: in GSM8K, in MetaMathQA, and in the exemplars of MGSM (German,
# French, Chinese and Swahili).
_MARKERS = (
    r"(?<!#)####(?!#)",
    r"\bthe answer is\b",
    r"\bdie antwort ist\b",
    r"\bla réponse est\b",
    r"\bjibu ni\b",
    r"答案是",
)
_MARKER = re.compile("|".join(_MARKERS), re.IGNORECASE)

# Numbers in the digits 0 to 9. A space within a number is a no-break or a thin one; a comma before
# one or two digits is a decimal one, as is the second of two kinds of separators.
_DIGITS = r"""
    [1-9]\d{0,2} (?:,\d{3})+ (?:\.\d+)?                   # 1,234.50
  | [1-9]\d{0,2} (?:[\u00a0\u2009\u202f]\d{3})+ (?:[.,]\d+)?  # 1 234,50
  | [1-9]\d{0,2} (?:\.\d{3})+ ,\d+                        # 1.234,50
  | [1-9]\d{0,2} (?:\.\d{3}){2,}                          # 1.234.567
  | \d+ ,\d{1,2} | 0 ,\d+                                 # 3,50
  | \d+ \.\d+ | (?<![\w.]) \.\d+                          # 3.50 and .5
  | \d+
"""
_NUMBER = re.compile(
    rf"""
    (?<! [A-Za-z_\d] ) (?<! \d[.,/] )  # not within a word, a date or a list
    (?P<sign> (?<![\w)\]}}%]) [-+] )? \\?[$€£¥₹]? (?P<inner> (?<=[$€£¥₹]) - )?
    (?:
        (?: (?P<whole> \d+ ) \ )? (?P<numerator> \d+ ) / (?P<denominator> 0*[1-9]\d* )
        (?! \d | [.,/]\d )
      | (?P<digits> {_DIGITS} ) (?! \d | [.,/]\d )
    )
    """,
    re.VERBOSE,
)
# Digits whose separators all stand between thousands.
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:(?:[,\u00a0\u2009\u202f]\d{3})+|(?:\.\d{3}){2,})")
_FRACTION = re.compile(r"(\d)?\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")

_MOST_DIGITS = 100  # of what is taken for a number

# Characters that stand for others: signs (the minus, hyphens, the en dash), slashes, separators
# (Arabic and full-width) and currency.
_ALIKE = str.maketrans("−－﹣–\u2010\u2011＋⁄／٫٬．＄￥￡", "------+//.,.$¥£")


def final_number(text: str) -> str | None:
    """Return the canonical text of the number that a solution ends in; None where there is none.

    That is the first number after the last marker ("####", "The answer is"), as GSM8K and MetaMath
    read theirs, and the last number of a text without a marker. After a marker without a number
    there is none.

    Units and currency are left out, and 50 % is 50: golds say so. Digits are those of any script.
    A number within a word ("x2") or a date is none; of a range both ends are numbers, and the
    hyphen between them is no sign. "3/4" and "1 1/2" are fractions. Two separators are read with
    care: "1,234.50" and "1.234,50" are one number each, "1.234" has three decimals, "3,50" has two,
    and "1 234" with a plain space is two numbers.
    """
    text = _plain(text)
    marked = _after_marker(text)
    numbers = _numbers(text if marked is None else marked)
    if not numbers:
        return None
    return str(numbers[-1] if marked is None else numbers[0])


def final_answer(text: str) -> str | None:
    """Return what stands after the last marker; None where nothing does.

    The canonical text where that is one number and nothing else; otherwise the text, in lower case
    and with single spaces.

    Source: the answers of MetaMathQA's MATH records are LaTeX (arXiv:2309.12284).
    """
    marked = _after_marker(_plain(text)) or ""
    answer = marked.lstrip(" \t\n:").rstrip(" \t\n.")
    whole = _NUMBER.fullmatch(answer)
    values = _values(whole) if whole else []
    return str(values[0]) if len(values) == 1 else " ".join(answer.casefold().split()) or None


def _after_marker(text: str) -> str | None:
    ends = [found.end() for found in _MARKER.finditer(text)]
    return text[ends[-1] :] if ends else None


def _numbers(text: str) -> list[Fraction]:
    return [value for found in _NUMBER.finditer(text) for value in _values(found)]


def _values(found: re.Match[str]) -> list[Fraction]:
    """Return the number that was found; two where a fraction that stands behind one is not below 1.

    None where it has too many digits to be an answer: Python refuses to read some thousand.
    """
    if len(found.group()) > _MOST_DIGITS:
        return []
    sign = -1 if "-" in (found["sign"], found["inner"]) else 1
    if found["digits"] is not None:
        return [sign * Fraction(_with_point(found["digits"]))]
    part = Fraction(int(found["numerator"]), int(found["denominator"]))
    whole = Fraction(found["whole"] or 0)
    if found["whole"] is not None and part >= 1:
        return [sign * whole, part]
    return [sign * (whole + part)]


def _with_point(digits: str) -> str:
    """Return digits with a point before the decimals and no other separator."""
    *groups, last = re.split(r"\D", digits)
    if not groups or _GROUPED.fullmatch(digits):
        return "".join([*groups, last])
    return "".join(groups) + "." + last


def _plain(text: str) -> str:
    """Return a text with the digits 0 to 9, plain signs and slashes, and fractions written out."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_ALIKE)
        text = "".join(map(_digit, text))
    return _FRACTION.sub(_written_out, text)


def _digit(character: str) -> str:
    if character.isascii():
        return character
    kind, _, parts = unicodedata.decomposition(character).partition(" ")
    if kind == "<fraction>":
        numerator, _, denominator = "".join(chr(int(p, 16)) for p in parts.split()).partition("⁄")
        return rf"\frac{{{numerator}}}{{{denominator or 1}}}"
    return str(unicodedata.decimal(character, character))


def _written_out(fraction: re.Match[str]) -> str:
    whole, numerator, denominator = fraction.groups()
    return f"{whole} {numerator}/{denominator}" if whole else f"{numerator}/{denominator}"
