"""How close generated texts are to the right ones, by the field's libraries.

Each is imported where it is called. A score is a fraction; one that cannot be computed here says
why. BLEU and BERTScore are of all texts together, the others are means over texts.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gatera.errors import InputError
from gatera.tasks.example import Example
from gatera.tasks.task import CorpusScore, Metric

BERTSCORE_MODEL = "roberta-large"  # what bert-score takes for English, and papers report
_BERTSCORE_LAYER = 17  # of it, as bert-score takes


def rouge_l(output: str, right: str) -> float:
    """Return ROUGE-L's F1 between two texts, without stemming.

    Raises:
        InputError: rouge-score is missing.
    """
    return float(_rouge_scorer().score(right, output)["rougeL"].fmeasure)


@functools.cache
def _rouge_scorer() -> Any:
    return _library("rouge_score.rouge_scorer", "ROUGE-L").RougeScorer(["rougeL"])


def bleu(outputs: Sequence[str], rights: Sequence[str]) -> CorpusScore:
    """Return corpus BLEU, with sacrebleu's signature as its note.

    Raises:
        InputError: sacrebleu is missing.
    """
    # Forced: sacrebleu warns of texts that are tokenised already, as ConvAI2's are.
    metric = _library("sacrebleu.metrics", "BLEU").BLEU(force=True)
    score = metric.corpus_score(list(outputs), [list(rights)])
    value = min(1.0, score.score / 100)  # 1 + 4e-16 for equal texts
    return CorpusScore(value, f"sacrebleu {metric.get_signature()}")


def meteor_exact_stem(outputs: Sequence[str], rights: Sequence[str]) -> CorpusScore:
    """Return the mean METEOR with exact and stem matches alone.

    The metric of the literature matches WordNet's synonyms too, and is higher: WordNet is a
    download, so it would not be the same everywhere.

    Raises:
        InputError: nltk is missing.
    """
    score = _library("nltk.translate.meteor_score", "METEOR").single_meteor_score
    scores = [
        score(right.split(), output.split(), wordnet=_NoSynonyms())
        for output, right in zip(outputs, rights, strict=True)
    ]
    note = f"nltk {importlib.metadata.version('nltk')}, exact and stem matches, no synonyms"
    return CorpusScore(sum(scores) / len(scores), note)


class _NoSynonyms:
    """Stands in for WordNet, and knows no word."""

    def synsets(self, word: str) -> list[Any]:
        return []


def bert_scores(outputs: Sequence[str], rights: Sequence[str]) -> dict[str, CorpusScore]:
    """Return BERTScore's mean precision, recall and F1; an empty output has 0 of each.

    Nothing is downloaded: without the package, or with the model not in the hub's cache, the scores
    are missing.
    """
    names = ("bert_precision", "bert_recall", "bert_f1")
    if importlib.util.find_spec("bert_score") is None:
        reason = "the package bert-score is not installed: pip install 'gatera[bertscore]'"
        return dict.fromkeys(names, CorpusScore(None, reason))
    if (folder := _cached_model()) is None:
        reason = (
            f"the model {BERTSCORE_MODEL} is not in the hub's cache: hf download {BERTSCORE_MODEL}"
        )
        return dict.fromkeys(names, CorpusScore(None, reason))
    sums = _bert_sums(outputs, rights, folder)
    version = importlib.metadata.version("bert-score")
    note = f"bert-score {version}, {BERTSCORE_MODEL}, layer {_BERTSCORE_LAYER}, not rescaled"
    return {n: CorpusScore(s / len(outputs), note) for n, s in zip(names, sums, strict=True)}


def _bert_sums(outputs: Sequence[str], rights: Sequence[str], folder: str) -> list[float]:
    """Return the sums of precision, recall and F1 over the texts that are not empty.

    bert-score 0.3.13 cannot read an empty text with transformers 5.
    """
    pairs = [(o, r) for o, r in zip(outputs, rights, strict=True) if o.strip() and r.strip()]
    if not pairs:
        return [0.0, 0.0, 0.0]
    found = _library("bert_score", "BERTScore").score(
        [output for output, _ in pairs],
        [right for _, right in pairs],
        model_type=folder,
        num_layers=_BERTSCORE_LAYER,
    )
    return [float(each.sum()) for each in found]


def _cached_model() -> str | None:
    """Return the folder in the hub's cache with the model of BERTScore; None where it is not."""
    hub = _library("huggingface_hub", "BERTScore")
    weights = hub.try_to_load_from_cache(BERTSCORE_MODEL, "model.safetensors")
    return str(Path(weights).parent) if isinstance(weights, str) else None


def distinct(outputs: Sequence[str], size: int) -> CorpusScore:
    """Return the share of different n-grams among all n-grams of the outputs.

    Words are what white space separates, in lower case.

    Source: distinct-1 and distinct-2 of Li et al., arXiv:1510.03055.
    """
    grams = [gram for output in outputs for gram in _grams(output, size)]
    if not grams:
        return CorpusScore(None, f"no output has {size} words")
    return CorpusScore(len(set(grams)) / len(grams))


def _grams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    words = text.casefold().split()
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _library(module: str, metric: str) -> Any:
    """Import a library.

    Raises:
        InputError: it, or what it needs, is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise InputError(
            f"{metric} needs the package {package}, which cannot be imported ({error}); install it "
            f"with `pip install {package}`."
        ) from error


def whole_text(text: str) -> str | None:
    """Return all of a text, None where there is none: what is read of a free reply."""
    return text.strip() or None


def _closeness(output: str, extracted: str | None, example: Example) -> float:
    return 0.0 if extracted is None else rouge_l(extracted, example.answer)


ROUGE_L = Metric("rouge_l", _closeness, has_right_answers=False)


def of_texts(outputs: Sequence[str], rights: Sequence[str]) -> dict[str, CorpusScore]:
    """Return what free replies are worth together, beside ROUGE-L."""
    return {
        "bleu": bleu(outputs, rights),
        **bert_scores(outputs, rights),
        "meteor_exact_stem": meteor_exact_stem(outputs, rights),
        "distinct_1": distinct(outputs, 1),
        "distinct_2": distinct(outputs, 2),
    }
