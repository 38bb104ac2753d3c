"""The answers of a study's rows, beside what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gatera import tasks
from gatera.errors import InputError
from gatera.reports.answers import Answer, Answers, AskedItem
from gatera.reports.records import StudyRecord
from gatera.studies.gathering.finished import SCORES, read_columns, scores_in
from gatera.studies.gathering.gather import without_folders
from gatera.studies.store.store import Store
from gatera.tasks.prompts import render_prompt
from gatera.trial import Json, TrialResult

_Place = tuple[str, int]  # task, index in its test set


def read_answers(store: Store, record: StudyRecord, data_root: Path | None = None) -> Answers:
    """Return all answers that a store has of a study.

    Args:
        store: Where the predictions are.
        record: What `gather` made of that store.
        data_root: Where the real data sets lie, for the prompts; None: GATERA_DATA_ROOT.
    """
    right: dict[_Place, str] = {}
    found: dict[str, dict[int, dict[_Place, Answer]]] = {}
    for row in record.rows:
        for seed, result in row.results.items():
            columns = read_columns(store, result, *SCORES, *_TEXTS)
            places = list(zip(columns["task"], columns["index"], strict=True))
            outputs, extracted, gold = (_texts(columns, name) for name in _TEXTS)
            scores = scores_in(columns)
            right |= {place: text or "" for place, text in zip(places, gold, strict=True)}
            found.setdefault(row.variant, {})[seed] = {
                place: Answer(output or "", read, score)
                for place, output, read, score in zip(
                    places, outputs, extracted, scores, strict=True
                )
            }
    order = {task: number for number, task in enumerate(record.tasks)}
    places = sorted(right, key=lambda place: (order[place[0]], place[1]))
    prompts, missing = _prompts(record, data_root)
    return Answers(
        tuple(AskedItem(*place, right[place], prompts.get(place)) for place in places),
        {
            variant: {seed: [run.get(place) for place in places] for seed, run in by_seed.items()}
            for variant, by_seed in found.items()
        },
        missing,
    )


_TEXTS = ("output", "extracted", "answer")


def _texts(columns: Mapping[str, Sequence[Json]], name: str) -> Sequence[str | None]:
    """Return a column of texts; nothing where there is none."""
    return columns.get(name, [None] * len(columns["task"]))


def _prompts(record: StudyRecord, root: Path | None) -> tuple[dict[_Place, str], str]:
    """Return what models read of each item, and why that is not known of some."""
    prompts: dict[_Place, str] = {}
    missing = []
    asked = {task: result for result in record.results for task in record.tasks}
    for task, result in asked.items():
        try:
            examples = _as_scored(task, result, root)
        except InputError as error:
            missing.append(f"{task}: {without_folders(str(error))}")
            continue
        template = result.config["data"]["template"]
        prompts |= {(task, n): render_prompt(template, each) for n, each in enumerate(examples)}
    return prompts, "; ".join(missing)


def _as_scored(task: str, result: TrialResult, root: Path | None) -> list[tasks.Example]:
    """Return a test set, where it is the one that was scored.

    Raises:
        InputError: it is not at hand, or another.
    """
    scored = result.parts["scoring"]["identities"]["data"][task]["test"]
    if tasks.fingerprint(task, "test", root) != scored:
        raise InputError("the data that lies here now is not what was scored.")
    return tasks.load(task, "test", root)
