"""The answers of a study's rows are those of the predictions files, beside what was asked."""

from __future__ import annotations

import dataclasses

import pytest
from made_up import commit_result

from gatera import tasks
from gatera.studies.gathering.answers import read_answers
from gatera.studies.gathering.gather import gather
from gatera.tasks.prompts import render_prompt


@pytest.fixture
def record(store, plan):
    """Two seeds of two rows with unequal answers; the third seed has not run."""
    for trial in plan.trials:
        if trial.seed < 2 and trial.variant in ("frozen", "hira", "gatera"):
            right = [trial.variant == "gatera"] * 9 + [False, True, trial.seed == 1]
            commit_result(store, trial, 0.0, answers=dict.fromkeys(plan.tasks, right))
    return gather(store, plan)


def test_answers_stand_beside_what_was_asked(store, record):
    answers = read_answers(store, record)

    assert [(item.task, item.index) for item in answers.items] == [
        (task, index) for task in record.tasks for index in range(12)
    ]
    assert {name: list(runs) for name, runs in answers.by_variant.items()} == {
        "frozen": [0],
        "hira": [0, 1],
        "gatera": [0, 1],
    }
    place = [(item.task, item.index) for item in answers.items].index((record.tasks[-1], 11))
    given = answers.by_variant["gatera"][1][place]
    assert (given.output, given.extracted, given.score) == ("it is left", "left", 1.0)
    given = answers.by_variant["gatera"][0][place]
    assert (given.output, given.extracted, given.score) == ("it is up", None, 0.0)
    asked = tasks.load(record.tasks[-1], "test")[11]
    template = record.results[0].config["data"]["template"]
    assert answers.items[place].prompt == render_prompt(template, asked)
    assert answers.without_prompts == ""


def test_prompts_of_other_data_than_was_scored_are_left_out(store, record):
    task, others = record.tasks[0], record.tasks[1:]

    def with_other_data(result):
        scoring = dict(result.provenance["scoring"])
        data = {**scoring["identities"]["data"], task: {"test": "0" * 64}}
        scoring["identities"] = {**scoring["identities"], "data": data}
        return dataclasses.replace(result, provenance={**result.provenance, "scoring": scoring})

    rows = tuple(
        dataclasses.replace(
            row,
            trials=tuple(
                dataclasses.replace(t, result=t.result and with_other_data(t.result))
                for t in row.trials
            ),
        )
        for row in record.rows
    )
    answers = read_answers(store, dataclasses.replace(record, rows=rows))

    assert answers.without_prompts.startswith(f"{task}: the data that lies here now is not")
    assert {item.task for item in answers.items if item.prompt is not None} == set(others)
    assert len(answers.items) == 12 * len(record.tasks)


def test_without_results_there_are_no_answers(store, plan):
    answers = read_answers(store, gather(store, plan))

    assert (answers.items, answers.by_variant, answers.without_prompts) == ((), {}, "")
