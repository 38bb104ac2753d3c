"""The page's counts and items are those of the predictions; what it holds stays text."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from made_up import commit_result

from gatera.reports.answers import Answer, Answers, AskedItem, flips
from gatera.reports.pages.report import report_page
from gatera.reports.tables import build_table
from gatera.reports.write import write_report
from gatera.studies.gathering.answers import read_answers
from gatera.studies.gathering.gather import gather

HOSTILE = "</script><script>document.title='broken'</script> `x` **y** <b>"
ITEMS = 24


@pytest.fixture
def filled(store, plan):
    """All trials, each with answers of its own; frozen is one trial, one row lacks a seed."""
    draw = np.random.default_rng(5)
    for trial in plan.trials:
        if (trial.variant, trial.seed) != ("hira", 2):
            right = {task: list(draw.random(ITEMS) < 0.6) for task in plan.tasks}
            commit_result(store, trial, 0.0, answers=right)
    return store


@pytest.fixture
def record(filled, plan):
    return gather(filled, plan)


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def predictions_of(store, record):
    frames = []
    for row in record.rows:
        for seed, result in row.results.items():
            found = pd.read_parquet(store.predictions_path(result.key, result.attempt))
            frames.append(found.assign(variant=row.variant, seed=seed))
    return pd.concat(frames)


def flips_by_pandas(frame, first, second, task=None):
    """Items that differ, runs lost and won, from the predictions alone."""
    if task is not None:
        frame = frame[frame["task"] == task]
    index = ["task", "index", "seed"]
    a, b = (frame[frame["variant"] == v].set_index(index)["score"] for v in (first, second))
    if first == "frozen" or second == "frozen":  # one run, beside each seed of the other
        lone, other = (a, b) if first == "frozen" else (b, a)
        lone = lone.droplevel("seed").reindex(other.index.droplevel("seed"))
        lone.index = other.index
        a, b = (lone, other) if first == "frozen" else (other, lone)
    change = (b - a).dropna()
    items = change[change != 0].reset_index().groupby(["task", "index"]).ngroups
    return [items, int((change < 0).sum()), int((change > 0).sum())]


def test_the_flips_of_a_page_are_those_of_the_predictions(filled, record):
    data = data_of(report_page(build_table(record), read_answers(filled, record)))
    frame = predictions_of(filled, record)
    names = [row["name"] for row in data["rows"]]
    assert names == ["frozen", "hira", "static_gate", "gatera"]
    for a, first in enumerate(names):
        for b, second in enumerate(names):
            if a != b:
                stated = data["flips"][a][b]
                assert stated[-1] == flips_by_pandas(frame, first, second)
                for task, of_task in zip(record.tasks, stated[:-1], strict=True):
                    assert of_task == flips_by_pandas(frame, first, second, task)
    assert data["flips"][1][3][-1][1] > 0


def test_every_answer_of_a_page_is_that_of_the_predictions(filled, record):
    data = data_of(report_page(build_table(record), read_answers(filled, record)))
    frame = predictions_of(filled, record).set_index(["variant", "seed", "task", "index"])
    assert len(data["items"]) == ITEMS * len(record.tasks)
    for item in data["items"]:
        for row, runs in zip(data["rows"], item["by"], strict=True):
            for seed, number in zip(row["seeds"], runs, strict=True):
                stored = frame.loc[row["name"], seed, item["task"], item["index"]]
                output, extracted, score = item["given"][number]
                assert (output, score) == (stored["output"], stored["score"])
                assert extracted == (stored["extracted"] if score else None)


def test_flips_by_hand():
    first = {0: np.array([1.0, 1.0, 0.0, np.nan]), 1: np.array([1.0, 0.0, 0.0, 1.0])}
    second = {1: np.array([0.0, 1.0, 0.0, np.nan]), 0: np.array([0.0, 1.0, 1.0, 0.0]), 2: None}
    found = flips(first, second)
    assert found.lost.tolist() == [2, 0, 0, 0]
    assert found.won.tolist() == [0, 1, 1, 0]
    assert found.totals == (3, 2, 2)


def hostile_answers(record, prompt=HOSTILE, items=3):
    given = [Answer(HOSTILE, None, float(n == 1)) for n in range(items)]
    return Answers(
        tuple(AskedItem(record.tasks[0], n, HOSTILE, f"{prompt} {n}") for n in range(items)),
        {row.variant: dict.fromkeys(row.results, given) for row in record.rows},
    )


def test_texts_of_models_and_data_stay_texts(record):
    page = report_page(build_table(record), hostile_answers(record))
    assert "</script><script>document" not in page
    assert page.count("<script") == 2
    assert data_of(page)["items"][0]["given"][0][0] == HOSTILE


def test_a_page_that_would_be_too_large_leaves_out_what_rows_agree_on(record):
    answers = hostile_answers(record, prompt="x" * 20_000, items=40)
    changed = [Answer("other", "other", 1.0), *answers.by_variant["hira"][0][1:]]
    given = {**answers.by_variant, "hira": {0: changed, 1: changed}}
    answers = Answers(answers.items, given)

    page = report_page(build_table(record), answers, most_bytes=600_000)

    assert len(page.encode()) <= 600_000
    data = data_of(page)
    kept = [item["index"] for item in data["items"]]
    assert 0 in kept
    assert 5 < len(kept) < 40
    hira = [row["name"] for row in data["rows"]].index("hira")
    gatera = [row["name"] for row in data["rows"]].index("gatera")
    assert data["flips"][gatera][hira][-1] == [1, 0, 2]  # of all items, kept or not
    assert f"it holds the {len(kept)} items" in page
    assert f"{40 - len(kept)} others are counted above and not listed" in page


def test_lines_of_the_template_are_not_repeated_item_by_item(record):
    data = data_of(report_page(build_table(record), hostile_answers(record, "Below is.\n\nQ:")))
    assert data["around"][0] == "Below is.\n\n"
    assert data["items"][0]["prompt"] == "Q: 0"


def test_a_study_without_results_has_a_page(store, plan):
    record = gather(store, plan)
    page = report_page(build_table(record), read_answers(store, record))
    assert data_of(page)["rows"] == []
    assert "Nothing can be compared yet" in page


def test_a_report_links_its_page(filled, record, tmp_path):
    answers = read_answers(filled, record)
    written = write_report(record, tmp_path, answers)
    assert (tmp_path / "made_up.tiny.html") in written.files
    assert "[made_up.tiny.html](made_up.tiny.html)" in written.markdown
    text = (tmp_path / "made_up.tiny.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert str(tmp_path) not in text
    write_report(record, tmp_path / "b", answers)
    assert (tmp_path / "b" / "made_up.tiny.html").read_text() == text
    (cost,) = [path for path in written.files if path.name == "made_up.tiny.cost.png"]
    assert base64.b64encode(cost.read_bytes()).decode() in text  # as it was drawn, not anew


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("hostile", [False, True])
def test_a_browser_shows_the_page_without_an_error(filled, record, tmp_path, hostile):
    answers = hostile_answers(record) if hostile else read_answers(filled, record)
    path = tmp_path / "page.html"
    path.write_text(report_page(build_table(record), answers), encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    told = (f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom")
    done = subprocess.run(
        ["chromium", *options, *told, f"{path.as_uri()}#view?first=hira&second=gatera&show=every"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    assert "<title>made_up at scale tiny</title>" in done.stdout
    first, second = 1, 3
    items, lost, won = data_of(path.read_text())["flips"][first][second][-1]
    said = f"{items} items differ in {lost + won} answers, {lost} right → wrong and {won} wrong"
    assert said in done.stdout.replace("&nbsp;", " ")
    assert done.stdout.count('class="item"') == (3 if hostile else 40)


def test_a_report_links_what_its_gates_do_where_that_lies_beside_it(filled, record, tmp_path):
    assert "token by token" not in write_report(record, tmp_path).markdown
    (tmp_path / "made_up.tiny.gates.md").write_text("# Gates")
    (tmp_path / "another.tiny.gates.md").write_text("# Gates")
    text = write_report(record, tmp_path).markdown
    assert text.count("token by token: [made_up.tiny.gates.md](made_up.tiny.gates.md)") == 1
    assert "another" not in text
