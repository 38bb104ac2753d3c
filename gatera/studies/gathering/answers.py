"""The answers of a study's rows, beside what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gatera import tasks
from gatera.errors import InputError
from gatera.reports.answers import Answers, AskedItem, Given
from gatera.reports.records import StudyRecord
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
    given: dict[str, dict[int, dict[_Place, Given]]] = {}
    for row in record.rows:
        for seed, result in row.results.items():
            lines = _lines(store, result)
            right |= {place: line.get("answer") or "" for place, line in lines.items()}
            given.setdefault(row.variant, {})[seed] = {
                place: Given(line.get("output") or "", line.get("extracted"), _score(line))
                for place, line in lines.items()
            }
    order = {task: number for number, task in enumerate(record.tasks)}
    places = sorted(right, key=lambda place: (order[place[0]], place[1]))
    prompts, missing = _prompts(record, data_root)
    return Answers(
        tuple(AskedItem(*place, right[place], prompts.get(place)) for place in places),
        {
            variant: {seed: [found.get(p) for p in places] for seed, found in by_seed.items()}
            for variant, by_seed in given.items()
        },
        missing,
    )


def _lines(store: Store, result: TrialResult) -> dict[_Place, Mapping[str, Json]]:
    import pyarrow.parquet

    path = store.predictions_path(result.key, result.attempt)
    there = pyarrow.parquet.read_schema(path).names
    # Predictions of before there were metrics have no score.
    wanted = ("task", "index", "output", "extracted", "answer", "score", "correct")
    table = pyarrow.parquet.read_table(path, columns=[name for name in wanted if name in there])
    return {(line["task"], line["index"]): line for line in table.to_pylist()}


def _score(line: Mapping[str, Json]) -> float:
    return float(line["score"] if "score" in line else line["correct"])


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
