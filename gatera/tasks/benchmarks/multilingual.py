"""Several languages: natural language inference (XNLI) and grade-school mathematics (MGSM).

Files are those of `xnli/` and `mgsm/` under a data root. XNLI's test files are parallel, and the
German one alone has labels: line i of the others has the label of its line i. English trains, on
XNLI's development set, in the files as on the hub: one name means one set.

What is asked and the words that answer it are English in every language: from one task to the next
only the text changes that the question is about.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gatera.errors import InputError
from gatera.tasks.answers import first_keyword
from gatera.tasks.benchmarks.files import Files, data_root
from gatera.tasks.benchmarks.final_number import final_number
from gatera.tasks.benchmarks.hub import HubSource, Record
from gatera.tasks.benchmarks.instructions import with_options
from gatera.tasks.benchmarks.records import tab_separated
from gatera.tasks.example import Example
from gatera.tasks.task import Data, Task
from gatera.trial import sha256_of

_LABELS = ("entailment", "neutral", "contradiction")  # in the order of the hub's numbers
_LABELLED = "xnli/test-de.labelled.tsv"  # of this language alone the test file has labels


class _Benchmark(Protocol):
    def task(self, name: str) -> Task: ...


@dataclass(frozen=True)
class _Inference:
    """XNLI in one language: whether a hypothesis follows from a premise."""

    title: str
    language: str
    training: str | None = None  # file below a data root; None: tested on alone

    def task(self, name: str) -> Task:
        """Return it as a task."""
        return Task(
            title=self.title,
            data=self._data(name),
            extract=_label,
            keywords=_LABELS,
            chance=1 / len(_LABELS),
        )

    def _data(self, name: str) -> Data:
        paths = {"test": _LABELLED} | ({"train": self.training} if self.training else {})
        splits = {"train": "validation", "test": "test"}
        source = HubSource("facebook/xnli", self.language, splits, _hub_pair)
        form = "lines of premise, hypothesis and label between tabs"
        labelled = Files(name, paths, _read_labelled, form, _NumberedPremises(source))
        if self.language == "de":
            return labelled
        path = f"xnli/test-{self.language}.tsv"
        form = "lines of premise and hypothesis between tabs"
        return _Translated(labelled, Files(name, {"test": path}, _read_pairs, form))


@dataclass(frozen=True)
class _Translated:
    """Labelled items whose test file holds another language's; those of this one have no labels."""

    labelled: Files
    pairs: Files

    @property
    def splits(self) -> tuple[str, ...]:
        return self.labelled.splits

    def load(self, split: str, root: Path | None) -> list[Example]:
        labelled = self.labelled.load(split, root)
        if not self._is_joined(split, root):
            return labelled
        pairs = self.pairs.load(split, root)
        self._check_parallel(pairs, labelled, split)
        return [_labelled(pair, other.answer) for pair, other in zip(pairs, labelled, strict=True)]

    def _check_parallel(self, pairs: list[Example], labelled: list[Example], split: str) -> None:
        files = f"{self.pairs.paths[split]} and {self.labelled.paths[split]}"
        if len(pairs) != len(labelled):
            raise InputError(
                f"{files} have {len(pairs)} and {len(labelled)} lines, but each line of the first "
                "has its label in the other; take both files whole."
            )
        for number, (pair, other) in enumerate(zip(pairs, labelled, strict=True), start=1):
            if pair.cluster != other.cluster:
                raise InputError(
                    f"{files} are not parallel: a new premise begins in one of them alone at line "
                    f"{number}; take both in their published order."
                )

    def fingerprint(self, split: str, root: Path | None) -> str:
        labelled = self.labelled.fingerprint(split, root)
        if not self._is_joined(split, root):
            return labelled
        return sha256_of([labelled, self.pairs.fingerprint(split, root)])

    def _is_joined(self, split: str, root: Path | None) -> bool:
        return split == "test" and data_root(root) is not None  # the hub's records have labels


@dataclass(frozen=True)
class _NumberedPremises:
    """The hub's records, their premises numbered as those of the files are."""

    source: HubSource

    def load(self, task: str, split: str) -> list[Example]:
        return _with_numbered_premises(self.source.load(task, split))


def _label(text: str) -> str | None:
    return first_keyword(text, _LABELS)


def _pair(premise: str, hypothesis: str) -> Example:
    """Word a pair whose label is not known; its cluster is the premise, not yet numbered."""
    return Example(
        instruction=(
            "Please decide whether the hypothesis follows from the premise (entailment), cannot be "
            "true if the premise is (contradiction), or neither (neutral).\n\n"
            f"Premise: {premise}\nHypothesis: {hypothesis}\n\nAnswer format: {'/'.join(_LABELS)}"
        ),
        input="",
        output="",
        answer="",
        cluster=premise,
    )


def _labelled(pair: Example, label: str) -> Example:
    output = f"the correct answer is {label}"
    return with_options(dataclasses.replace(pair, output=output, answer=label))


def _with_numbered_premises(pairs: Iterable[Example]) -> list[Example]:
    """Return pairs with the number of their premise: equal ones in a row have one number."""
    runs = itertools.groupby(pairs, key=lambda pair: pair.cluster)
    return [
        dataclasses.replace(pair, cluster=f"premise {number}")
        for number, (_, run) in enumerate(runs, start=1)
        for pair in run
    ]


def _hub_pair(record: Record) -> Example:
    return _labelled(_pair(record["premise"], record["hypothesis"]), _LABELS[record["label"]])


def _read_pairs(path: Path) -> list[Example]:
    records = tab_separated(path, ("premise", "hypothesis"))
    return _with_numbered_premises(_pair(each["premise"], each["hypothesis"]) for each in records)


def _read_labelled(path: Path) -> list[Example]:
    records = tab_separated(path, ("premise", "hypothesis", "label"))
    for number, record in enumerate(records, start=1):
        if record["label"] not in _LABELS:
            raise InputError(
                f"{path}, line {number}: the label is {record['label']!r}; expected one of "
                f"{', '.join(_LABELS)}."
            )
    return _with_numbered_premises(
        _labelled(_pair(each["premise"], each["hypothesis"]), each["label"]) for each in records
    )


@dataclass(frozen=True)
class _Sums:
    """MGSM in one language: problems of GSM8K's test set, translated; scored as GSM8K is.

    The hub has it as a script alone, which `datasets` no longer runs.
    """

    title: str
    language: str

    def task(self, name: str) -> Task:
        """Return it as a task."""
        paths = {"test": f"mgsm/mgsm_{self.language}.tsv"}
        data = Files(name, paths, _read_sums, "lines of question and number between tabs")
        return Task(self.title, data, final_number, max_new_tokens=_SUM_TOKENS)


# As for GSM8K: answers may be worded in English, or in a language that takes as many tokens.
_SUM_TOKENS = 256


def _read_sums(path: Path) -> list[Example]:
    records = tab_separated(path, ("question", "answer"))
    return [
        Example(
            instruction=record["question"],
            input="",
            output=f"#### {record['answer']}",
            answer=_gold(record["answer"], f"{path}, line {number}"),
        )
        for number, record in enumerate(records, start=1)
    ]


def _gold(text: str, where: str) -> str:
    number = final_number(text)
    if number is None:
        raise InputError(f"{where}: the answer is {text!r}; expected a number.")
    return number


BENCHMARKS: dict[str, _Benchmark] = {
    "xnli_en": _Inference("XNLI, English", "en", training="xnli/dev-en.tsv"),
    "xnli_de": _Inference("XNLI, German", "de"),
    "xnli_fr": _Inference("XNLI, French", "fr"),
    "xnli_zh": _Inference("XNLI, Chinese", "zh"),
    "mgsm_en": _Sums("MGSM, English", "en"),
    "mgsm_de": _Sums("MGSM, German", "de"),
    "mgsm_fr": _Sums("MGSM, French", "fr"),
    "mgsm_zh": _Sums("MGSM, Chinese", "zh"),
    "mgsm_sw": _Sums("MGSM, Swahili", "sw"),
}

TASKS: Mapping[str, Task] = {name: each.task(name) for name, each in BENCHMARKS.items()}
