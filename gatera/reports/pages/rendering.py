"""From a template and values to a page that stands alone."""

from __future__ import annotations

import json
import re
from typing import Any

import jinja2
from markupsafe import Markup

from gatera.trial import Json


def render(template: str, **values: Any) -> str:
    """Return the page that a template of this folder makes of values; text is escaped.

    Args:
        template: Its file in `templates/`, which may extend `base.html`.
        values: What it is filled with. In a template, `value | data` writes a value as JSON that a
            `<script type="application/json">` can hold, and `text | marked` writes `names`,
            **strong** and *said* as what they are.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gatera.reports.pages", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data": as_data, "marked": with_marks}
    return environment.get_template(template).render(values)


def as_data(value: Json) -> Markup:
    """Return JSON that may stand in a script element: nothing in it can end that."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def with_marks(text: str) -> Markup:
    """Return a text with its `names` as code, and what is **strong** or *said* so."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else _with_stress(part)
        for n, part in enumerate(parts)
    )


def _with_stress(text: str) -> Markup:
    escaped = str(Markup.escape(text))
    for pattern, tag in ((r"\*\*(?=\S)(.+?)\*\*", "strong"), (r"\*(?=\S)(.+?)\*", "em")):
        escaped = re.sub(pattern, rf"<{tag}>\1</{tag}>", escaped)
    return Markup(escaped)
