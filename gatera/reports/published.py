"""Published results, each number once, as the papers print them (in percent).

Sources: GateRA, arXiv:2511.17582; HiRA, openreview.net/forum?id=TwJrTz9cRS (the baselines of its
tables are those that GateRA repeats). What is not known is not here, and a report shows a dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTable:
    """Average accuracies of one table or figure, by variant."""

    source: str
    model: str
    averages: Mapping[str, float]  # percent, plain mean over the eight commonsense tasks
    notes: Mapping[str, str]  # by variant: what has to be said of a number


_SOURCE = "GateRA (arXiv:2511.17582)"

TABLES: Mapping[str, PublishedTable] = {
    "gatera_table4": PublishedTable(
        source=f"{_SOURCE}, Table 4",
        model="LLaMA-3-8B",
        averages={
            "gatera": 87.53,
            "hira": 86.72,
            "gatera_fc": 86.53,
            "hira_fc": 86.04,
            "gatera_qkv": 86.5,
            "hira_qkv": 85.13,
        },
        notes={"gatera_qkv": "known at second hand only, as about 86.5"},
    ),
    "gatera_table5": PublishedTable(
        source=f"{_SOURCE}, Table 5",
        model="LLaMA-3-8B",
        averages={"hira": 86.72, "static_gate": 86.97, "no_entropy": 87.08, "gatera": 87.53},
        notes={},
    ),
    "gatera_figure3": PublishedTable(
        source=f"{_SOURCE}, Figure 3; HiRA, ICLR 2025",
        model="LLaMA-3-8B",
        averages={"gatera_r16": 86.70, "gatera_r32": 87.53, "hira_r16": 86.08, "hira_r32": 86.72},
        notes={},
    ),
}
