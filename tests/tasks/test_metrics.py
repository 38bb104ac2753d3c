"""Closeness of texts, against hand counts."""

from __future__ import annotations

import importlib.metadata
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gatera.errors import InputError
from gatera.tasks import metrics
from gatera.tasks.task import CorpusScore


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # "the cat on mat": four of the output's four words, and of the right text's six.
    assert metrics.rouge_l("the cat on mat", "The cat sat on the mat.") == pytest.approx(0.8)
    assert metrics.rouge_l("mat the", "the mat") == pytest.approx(0.5)
    assert metrics.rouge_l("cats", "cat") == 0.0  # no stemming
    assert metrics.rouge_l("", "cat") == 0.0


def test_bleu_is_of_all_texts_together() -> None:
    outputs = ["the cat sat on the mat", "a b c d e"]
    rights = ["the cat is on the mat", "a b c d e f"]
    precisions = (10 / 11) * (7 / 9) * (4 / 7) * (2 / 5)
    expected = math.exp(1 - 12 / 11) * precisions ** (1 / 4)
    found = metrics.bleu(outputs, rights)
    assert found.value == pytest.approx(expected)
    version = importlib.metadata.version("sacrebleu")
    signature = f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    assert found.note == f"sacrebleu {signature}"
    assert metrics.bleu(rights, rights).value == 1.0


def test_meteor_matches_words_and_stems_and_no_synonyms() -> None:
    def meteor(output: str, right: str) -> float | None:
        return metrics.meteor_exact_stem([output], [right]).value

    assert meteor("a b c", "a b c") == pytest.approx(1 - 0.5 * (1 / 3) ** 3)  # one chunk of three
    assert meteor("cats run", "cat running") == pytest.approx(1 - 0.5 * (1 / 2) ** 3)
    assert meteor("big", "large") == 0.0
    assert meteor("", "large") == 0.0
    # One of two words: precision 1, recall 1/2, one chunk of one.
    assert meteor("a", "a b") == pytest.approx(0.5 * (1 * 0.5) / (0.9 * 1 + 0.1 * 0.5))
    both = metrics.meteor_exact_stem(["a b c", "big"], ["a b c", "large"])
    assert both.value == pytest.approx((1 - 0.5 / 27) / 2)
    assert "exact and stem matches, no synonyms" in both.note


def test_distinct_is_the_share_of_different_n_grams() -> None:
    outputs = ["a b a", "A  c"]  # a b a a c; (a b) (b a) (a c)
    assert metrics.distinct(outputs, 1) == CorpusScore(3 / 5)
    assert metrics.distinct(outputs, 2) == CorpusScore(3 / 3)
    assert metrics.distinct(["a b a b"], 2) == CorpusScore(2 / 3)
    assert metrics.distinct(["a", ""], 2) == CorpusScore(None, "no output has 2 words")


@pytest.mark.parametrize(
    ("module", "measure"),
    [
        ("sacrebleu.metrics", metrics.bleu),
        ("nltk.translate.meteor_score", metrics.meteor_exact_stem),
    ],
)
def test_a_missing_library_is_one_clear_error(
    module: str, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    name = module.partition(".")[0]
    with pytest.raises(InputError, match=rf"needs the package {name}, .*`pip install {name}`"):
        measure(["a"], ["a"])


def test_rouge_without_its_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    metrics._rouge_scorer.cache_clear()
    with pytest.raises(InputError, match=r"ROUGE-L needs .* `pip install rouge-score`"):
        metrics.rouge_l("a", "a")


NAMES = ("bert_precision", "bert_recall", "bert_f1")


def test_bertscore_without_its_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    found = metrics.bert_scores(["a"], ["a"])
    assert tuple(found) == NAMES
    assert {(each.value, each.note.partition(":")[0]) for each in found.values()} == {
        (None, "the package bert-score is not installed")
    }


class BertScore(types.ModuleType):
    """A package bert-score that gives out numbers, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__("bert_score")
        self.__spec__ = importlib.machinery.ModuleSpec("bert_score", None)
        self.asked: list[Any] = []

    def score(self, outputs: list[str], rights: list[str], **options: Any) -> Any:
        self.asked.append((outputs, rights, options))
        numpy = pytest.importorskip("numpy")
        return [numpy.full(len(outputs), value) for value in (0.25, 0.5, 0.75)]


@pytest.fixture
def bert_score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BertScore:
    package = BertScore()
    monkeypatch.setitem(sys.modules, "bert_score", package)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9")
    return package


def test_bertscore_without_its_model_downloads_nothing(bert_score: BertScore) -> None:
    found = metrics.bert_scores(["a"], ["a"])
    assert {(each.value, each.note) for each in found.values()} == {
        (None, "the model roberta-large is not in the hub's cache: hf download roberta-large")
    }
    assert bert_score.asked == []


def test_bertscore_reads_the_cached_model(bert_score: BertScore, tmp_path: Path) -> None:
    model = tmp_path / "models--roberta-large"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    folder = model / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("")
    found = metrics.bert_scores(["a", " ", "b"], ["c", "d", "e"])  # the empty output has 0
    assert [found[name].value for name in NAMES] == pytest.approx([0.5 / 3, 1 / 3, 0.5])
    assert found["bert_f1"].note == "bert-score 9, roberta-large, layer 17, not rescaled"
    options = {"model_type": str(folder), "num_layers": 17}
    assert bert_score.asked == [(["a", "b"], ["c", "e"], options)]
    assert [each.value for each in metrics.bert_scores([""], ["c"]).values()] == [0.0, 0.0, 0.0]
