"""The rows of Table 5 on twenty seeds that no table uses: what `spread.py` runs."""

import dataclasses

from gatera.studies.catalog import load

STUDY = dataclasses.replace(
    load("ablation_table5").study,
    title="Table 5 on seeds that no table uses: how far seeds lie apart",
    reproduces="",
    published=None,
    seeds=tuple(range(100, 120)),
)
