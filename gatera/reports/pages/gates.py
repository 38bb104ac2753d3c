"""The page that colours each token of prompts and answers by its gate."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from gatera.reports.gates.effects import GateRow
from gatera.reports.pages.rendering import render
from gatera.training.evaluation.gated_tokens import GatedText
from gatera.trial import Json

ITEMS_PER_TASK = 8  # that the page shows, at most
STEPS = 65535  # a gate g is written as round(STEPS * g), in two bytes
_MOST_BYTES = 4_000_000  # of all items together, so that the page stays below 5 MB

_Place = tuple[str, int]  # task, index


def gates_page(
    title: str, rows: Sequence[GateRow], *, paper: str, sentences: Sequence[str], counted: str
) -> str:
    """Return the page of rows, side by side; prompts of the user's own come first.

    Args:
        title: Its heading.
        rows: The gates of each variant.
        paper: What the paper says of gates.
        sentences: What was found, with names between backticks.
        counted: Which tokens and items the sentences count.
    """
    items = list(_within(_items(rows), _MOST_BYTES))
    data = {
        "steps": STEPS,
        "rows": [_row(row) for row in rows],
        "items": items,
    }
    words = {"title": title, "paper": paper, "sentences": sentences, "counted": counted}
    return render("gates.html", data=data, **words)


def _row(row: GateRow) -> dict[str, Json]:
    return {
        "variant": row.variant,
        "seed": row.seed,
        "gate": row.gate,
        "constant": row.tokens.constant,
        "threshold": row.tokens.threshold,
        "modules": [[module.layer, module.kind] for module in row.tokens.modules],
    }


def _items(rows: Sequence[GateRow]) -> Iterator[dict[str, Json]]:
    """Yield prompts of one's own, then items of each task in turn, beside each other by row."""
    texts = [{(text.task, text.index): text for text in row.tokens.texts} for row in rows]
    places = sorted({place for found in texts for place in found})
    own = [place for place in places if not place[0]]
    tasks = list(dict.fromkeys(text.task for row in rows for text in row.items))
    by_task = [[place for place in places if place[0] == task] for task in tasks]
    in_turn = itertools.zip_longest(*(found[:ITEMS_PER_TASK] for found in by_task))
    for place in (*own, *(each for turn in in_turn for each in turn if each is not None)):
        yield _item(place, [found.get(place) for found in texts])


def _item(place: _Place, texts: Sequence[GatedText | None]) -> dict[str, Json]:
    task, index = place
    return {
        "id": f"{task or 'prompt'}-{index}",
        "task": task or "your prompts",
        "index": index,
        "rows": [None if text is None else _text(text) for text in texts],
    }


def _text(text: GatedText) -> dict[str, Json]:
    """Return a text; `values` and `closed` hold the tokens of one gate after another, in base64."""
    steps = np.rint(text.values.astype(np.float64) * STEPS).astype("<u2")
    return {
        "tokens": list(text.tokens),
        "prompt": text.prompt_tokens,
        "values": base64.b64encode(steps.tobytes()).decode(),
        "closed": _packed(text.closed) if text.closed.any() else None,
        "score": text.score,
    }


def _packed(flags: np.ndarray) -> str:
    return base64.b64encode(flags.astype(np.uint8).tobytes()).decode()


def _within(items: Iterator[dict[str, Json]], most: int) -> Iterator[dict[str, Json]]:
    """Yield items as long as they have room, and one in any case."""
    used = 0
    for number, item in enumerate(items):
        used += sum(_size(text) for text in item["rows"] if text is not None)
        if number and used > most:
            return
        yield item


def _size(text: dict[str, Json]) -> int:
    """Return about how many bytes a text has on the page."""
    tokens = sum(len(token.encode()) + 3 for token in text["tokens"])  # two quotes and a comma
    return tokens + len(text["values"]) + len(text["closed"] or "")
