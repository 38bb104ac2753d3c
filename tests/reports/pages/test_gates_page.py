"""The page of gates: its values are those of the arrays, and tokens stay text."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
from made_up_gates import MODULES, make_row, make_text

from gatera.reports.gates.effects import judge
from gatera.reports.pages import gates as page
from gatera.reports.pages.gates import STEPS, gates_page
from gatera.reports.write_gates import write_gates

HOSTILE = "</script><img src=x onerror=alert(1)>&\u2028"


def random_text(seed, tokens=7, **fields):
    values = np.random.default_rng(seed).random((len(MODULES), tokens))
    return make_text(values, 4, **fields)


def page_of(rows):
    return gates_page("A <title>", rows, paper="p", sentences=["`a<b` is"], counted="c")


def data_of(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_values_are_those_of_the_arrays_for_each_row():
    first = [random_text(n, index=n) for n in range(3)] + [random_text(9, task="", index=0)]
    second = [random_text(20, tokens=5, index=1)]
    second[0].closed[2, 3] = True
    rows = [make_row(first), make_row(second, variant="other", threshold=0.3)]
    data = data_of(page_of(rows))
    assert [each["id"] for each in data["items"]] == ["prompt-0", "boolq-0", "boolq-1", "boolq-2"]
    assert [each["variant"] for each in data["rows"]] == ["gatera", "other"]
    assert data["rows"][1]["threshold"] == 0.3
    assert data["rows"][0]["modules"][:3] == [[0, "q_proj"], [0, "up_proj"], [1, "q_proj"]]
    item = data["items"][2]
    for text, written in zip((first[1], second[0]), item["rows"], strict=True):
        assert written["tokens"] == list(text.tokens)
        assert written["prompt"] == 4
        steps = np.frombuffer(base64.b64decode(written["values"]), "<u2")
        read = steps.reshape(text.values.shape) / STEPS
        np.testing.assert_allclose(read, text.values, rtol=0, atol=1e-5)
    assert item["rows"][0]["closed"] is None
    closed = np.frombuffer(base64.b64decode(item["rows"][1]["closed"]), np.uint8)
    np.testing.assert_array_equal(closed.reshape(8, 5), second[0].closed)
    assert data["items"][0]["rows"][1] is None  # not read in that row


def test_nothing_in_a_token_ends_the_script():
    hostile = make_text(np.full((8, 4), 0.5), 2, tokens=(HOSTILE, "a", "b", "c"))
    text = page_of([make_row([hostile])])
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert data_of(text)["items"][0]["rows"][0]["tokens"][0] == HOSTILE
    assert "<title>A &lt;title&gt;</title>" in text
    assert "<code>a&lt;b</code> is" in text


def test_a_page_needs_nothing_beside_itself():
    text = page_of([make_row([random_text(0)])])
    assert not re.search(r"""\b(src|href)=["'](?!#|data:)""", text)
    assert "http" not in text
    assert "innerHTML" not in text


def test_items_are_shown_as_long_as_there_is_room(monkeypatch):
    texts = [random_text(n, task=task, index=n) for task in ("boolq", "piqa") for n in range(20)]
    few = data_of(page_of([make_row(texts)]))["items"]
    assert [each["id"] for each in few[:4]] == ["boolq-0", "piqa-0", "boolq-1", "piqa-1"]
    assert len(few) == 2 * page.ITEMS_PER_TASK
    monkeypatch.setattr(page, "_MOST_BYTES", 500)
    assert len(data_of(page_of([make_row(texts)]))["items"]) == 2
    monkeypatch.setattr(page, "_MOST_BYTES", 1)
    assert len(data_of(page_of([make_row(texts)]))["items"]) == 1


def test_files_are_written_and_figures_only_where_there_is_something(tmp_path):
    texts = [random_text(n, index=n) for n in range(3)]
    files = write_gates(judge([make_row(texts)]), "s.tiny", "Gates", tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in files]
    assert names == [
        *("s.tiny.gates.html", "s.tiny.gates.md"),
        *("figures/s.tiny.gates_map.png", "figures/s.tiny.gates_by_layer.png"),
    ]
    assert all(path.stat().st_size > 500 for path in files)
    constant = judge([make_row(texts, constant=True)])
    again = write_gates(constant, "s.tiny", "Gates", tmp_path)
    assert len(again) == 3
    assert not (tmp_path / names[3]).exists()
    assert "gates_by_layer" not in (tmp_path / names[1]).read_text()
