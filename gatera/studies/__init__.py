"""Studies: what users write, and everything that turns one into a table.

`study` is what a study file states, `catalog` finds it, `asking` says how a run of it departs. From
there on a folder a chapter: `planning` lists its trials, `store` keeps what they leave, `workers`
run them, started by `launch`; `search` tunes; `views` show, `running` puts it all to work.
`interface` is all that from Python, `reported` what it returns. What a trial computes is
`gatera.training`'s, what its numbers mean `gatera.reports`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatera.studies.study import Contrast, Study, Tuning, Variant

if TYPE_CHECKING:
    from gatera.studies.interface import (
        Gates,
        Planned,
        Report,
        gates,
        load,
        plan,
        rehearse,
        run,
    )

__all__ = [
    "Contrast",
    "Gates",
    "Planned",
    "Report",
    "Study",
    "Tuning",
    "Variant",
    "gates",
    "load",
    "plan",
    "rehearse",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # those above are here already; the others are for whoever runs studies
        from gatera.studies import interface

        return getattr(interface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
