"""Reading an answer out of generated text."""

from __future__ import annotations

import re
from collections.abc import Sequence


def first_keyword(text: str, keywords: Sequence[str]) -> str | None:
    """Return the keyword that occurs first in `text` as a whole word; None where none does.

    Letter case is ignored. "untrue" and "answer12" hold neither "true" nor "answer1".

    Args:
        text: What a model produced after the prompt.
        keywords: The words that count as answers, in lower case.

    Source: the extraction of LLM-Adapters, arXiv:2304.01933, which takes the first match too,
    but matches within words.
    """
    longest_first = sorted(keywords, key=len, reverse=True)
    choices = "|".join(re.escape(keyword.casefold()) for keyword in longest_first)
    found = re.search(rf"(?<!\w)(?:{choices})(?!\w)", text.casefold())
    return found.group() if found else None
