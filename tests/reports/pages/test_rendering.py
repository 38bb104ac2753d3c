"""What is written into a page stays text there."""

from __future__ import annotations

import json

from gatera.reports.pages.rendering import as_data, with_marks

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\u2028 \"quoted\" 'single'"


def test_data_cannot_end_the_script_that_holds_it():
    written = as_data({"prompt": HOSTILE})

    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == {"prompt": HOSTILE}


def test_marks_become_elements_and_all_else_stays_text():
    assert with_marks("`a<b` is <b>above</b> `c*d*e`, *resolved*, **now** 2 * 3 * 4") == (
        "<code>a&lt;b</code> is &lt;b&gt;above&lt;/b&gt; <code>c*d*e</code>, <em>resolved</em>, "
        "<strong>now</strong> 2 * 3 * 4"
    )
