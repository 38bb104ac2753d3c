"""XNLI and MGSM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.example import Example

WORDED = (
    "Please decide whether the hypothesis follows from the premise (entailment), cannot be true if "
    "the premise is (contradiction), or neither (neutral).\n\n"
    "Premise: {}\nHypothesis: {}\n\nAnswer format: entailment/neutral/contradiction"
)
OPTIONS = tuple(f"the correct answer is {x}" for x in ("entailment", "neutral", "contradiction"))


@pytest.fixture(autouse=True)
def no_root_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATERA_DATA_ROOT", raising=False)


def put(root: Path, name: str, *lines: str) -> Path:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def pair(premise: str, hypothesis: str, label: str, number: int) -> Example:
    output = f"the correct answer is {label}"
    text = WORDED.format(premise, hypothesis)
    return Example(text, "", output, label, OPTIONS, f"premise {number}")


GERMAN = ("p1\th1\tneutral", "p1\th2\tentailment", "p2\th3\tcontradiction", "p1\th4\tneutral")
ITEMS = [
    pair("p1", "h1", "neutral", 1),
    pair("p1", "h2", "entailment", 1),
    pair("p2", "h3", "contradiction", 2),
    pair("p1", "h4", "neutral", 3),
]


def test_the_german_test_file_has_its_labels(tmp_path: Path) -> None:
    put(tmp_path, "xnli/test-de.labelled.tsv", *GERMAN)
    assert tasks.load("xnli_de", "test", tmp_path) == ITEMS


@pytest.mark.parametrize("language", ["en", "fr", "zh"])
def test_other_languages_take_the_label_of_the_same_line(language: str, tmp_path: Path) -> None:
    put(tmp_path, "xnli/test-de.labelled.tsv", *GERMAN)
    own = ("我\tI", "我\tII", "é\tIII", "我\tIV")
    put(tmp_path, f"xnli/test-{language}.tsv", *own)
    expected = [
        pair("我", "I", "neutral", 1),
        pair("我", "II", "entailment", 1),
        pair("é", "III", "contradiction", 2),
        pair("我", "IV", "neutral", 3),
    ]
    assert tasks.load(f"xnli_{language}", "test", tmp_path) == expected


def test_english_trains_on_its_development_set(tmp_path: Path) -> None:
    lines = [f"p{n}\th{n}\tneutral" for n in range(130)]
    put(tmp_path, "xnli/dev-en.tsv", *lines)
    train, held_out = (tasks.load("xnli_en", each, tmp_path) for each in ("train", "validation"))
    assert (len(train), len(held_out)) == (10, 120)
    for task in ("xnli_de", "mgsm_en"):
        with pytest.raises(InputError, match=f"{task} is a test set and has no train split"):
            tasks.load(task, "train", tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("a\tb",) * 3, r"test-en.tsv and xnli/test-de.labelled.tsv have 3 and 4 lines, but each"),
        (("a\tb",) * 5, r"have 5 and 4 lines"),
        (("a\tb", "a\tc", "a\td", "e\tf"), r"are not parallel: .* at line 3; take both"),
        (("a\tb", "a", "a\td", "e\tf"), r"test-en.tsv, line 2: found 1 fields"),
    ],
)
def test_files_that_are_not_parallel_are_refused(
    lines: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    put(tmp_path, "xnli/test-de.labelled.tsv", *GERMAN)
    put(tmp_path, "xnli/test-en.tsv", *lines)
    with pytest.raises(InputError, match=message):
        tasks.load("xnli_en", "test", tmp_path)


def test_an_unknown_label_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "xnli/test-de.labelled.tsv", GERMAN[0], "p\th\tcontradictory")
    with pytest.raises(InputError, match="line 2: the label is 'contradictory'; expected") as found:
        tasks.load("xnli_de", "test", tmp_path)
    assert str(path) in str(found.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    put(tmp_path, "xnli/test-fr.tsv", "p\th")
    for ask in (tasks.load, tasks.fingerprint):
        with pytest.raises(InputError, match=r"test split was looked for at .*de\.labelled\.tsv"):
            ask("xnli_fr", "test", tmp_path)
        with pytest.raises(InputError, match=r"xnli_en: its train split was .*dev-en\.tsv"):
            ask("xnli_en", "train", tmp_path)
    put(tmp_path, "xnli/test-de.labelled.tsv", *GERMAN)
    with pytest.raises(InputError, match=r"test split was looked for at .*test-zh\.tsv"):
        tasks.load("xnli_zh", "test", tmp_path)


def test_the_fingerprint_covers_both_files(tmp_path: Path) -> None:
    found = set()
    put(tmp_path, "xnli/dev-en.tsv", "p\th\tneutral")
    for own, german in (("a\tb", "p\th\tneutral"), ("a\tc", "p\th\tneutral"), ("a\tc", GERMAN[2])):
        put(tmp_path, "xnli/test-de.labelled.tsv", german)
        put(tmp_path, "xnli/test-en.tsv", own)
        found.add(tasks.fingerprint("xnli_en", "test", tmp_path))
        found.add(tasks.fingerprint("xnli_en", "train", tmp_path))
    assert len(found) == 4


def test_the_label_is_the_first_that_is_named() -> None:
    for text, expected in (
        ("The correct answer is Neutral.", "neutral"),
        ("contradictions? ENTAILMENT/neutral", "entailment"),
        ("neutrality", None),
    ):
        assert tasks.extract_answer("xnli_zh", text) == expected
    assert tasks.find("xnli_fr").chance == 1 / 3
    assert tasks.find("xnli_fr").max_new_tokens == 0


def test_hub_records_become_the_same_items(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(*where: Any, **options: Any) -> Any:
            asked.append((*where, options["split"]))
            labels = ["entailment", "neutral", "contradiction"]
            rows = [line.split("\t") for line in GERMAN]
            return [
                {"premise": p, "hypothesis": h, "label": labels.index(label)}
                for p, h, label in rows
            ]

    monkeypatch.setitem(__import__("sys").modules, "datasets", Datasets)
    assert tasks.load("xnli_zh", "test") == ITEMS
    assert tasks.load("xnli_en", "test") == ITEMS
    assert tasks.load("xnli_en", "validation") == ITEMS
    assert len(tasks.fingerprint("xnli_en", "test")) == 64
    assert asked[:3] == [
        ("facebook/xnli", "zh", "test"),
        ("facebook/xnli", "en", "test"),
        ("facebook/xnli", "en", "validation"),
    ]


def test_sums_are_scored_by_their_number(tmp_path: Path) -> None:
    put(tmp_path, "mgsm/mgsm_sw.tsv", "Ngapi?\t5,600", "Je?\t3")
    first, second = tasks.load("mgsm_sw", "test", tmp_path)
    assert first == Example("Ngapi?", "", "#### 5,600", "5600")
    task = tasks.find("mgsm_sw")
    assert task.metric.of_item("Jibu ni 5600.", task.extract("Jibu ni 5600."), first) == 1.0
    assert task.metric.of_item("Jibu ni 5600.", task.extract("Jibu ni 5600."), second) == 0.0
    path = put(tmp_path, "mgsm/mgsm_sw.tsv", "Ngapi?\t5,600", "Je?\ttatu")
    with pytest.raises(InputError, match="line 2: the answer is 'tatu'; expected a num") as found:
        tasks.load("mgsm_sw", "test", tmp_path)
    assert str(path) in str(found.value)


def test_without_a_root_sums_name_their_file() -> None:
    with pytest.raises(InputError, match=r"no data root was given .* mgsm/mgsm_fr\.tsv below one"):
        tasks.load("mgsm_fr", "test")
