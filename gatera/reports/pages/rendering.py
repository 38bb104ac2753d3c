"""From a template and values to a page that stands alone."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from markupsafe import Markup

from gatera.trial import Json


def render(template: str, **values: Any) -> str:
    """Return the page that a template of this folder makes of values; text is escaped.

    Args:
        template: Its file in `templates/`, which may extend `base.html`.
        values: What it is filled with. In a template, `value | data` writes a value as JSON that a
            `<script type="application/json">` can hold, and `text | named` writes names between
            backticks as code.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gatera.reports.pages", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data": as_data, "named": with_names}
    return environment.get_template(template).render(values)


def as_data(value: Json) -> Markup:
    """Return JSON that may stand in a script element: nothing in it can end that."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def with_names(sentence: str) -> Markup:
    """Return a sentence with its names, which stand between backticks, as code."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts)
    )
