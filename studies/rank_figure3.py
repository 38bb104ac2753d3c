"""How the accuracy depends on the rank, with and without the gate."""

from gatera.studies import Contrast, Study, Variant

RANKS = (2, 4, 8, 16, 32, 64)

STUDY = Study(
    title="How accuracy depends on the rank, with and without the gate",
    reproduces="GateRA (arXiv:2511.17582), Figure 3",
    published="gatera_figure3",
    variants=(
        *(Variant(f"hira_r{r}", changes={"adapter.gate": "none", "adapter.r": r}) for r in RANKS),
        *(Variant(f"gatera_r{r}", changes={"adapter.r": r}) for r in RANKS),
    ),
    reference="gatera_r32",
    contrasts=tuple(
        Contrast(f"gate at rank {r}", {f"gatera_r{r}": 1, f"hira_r{r}": -1}) for r in RANKS
    ),
    seeds=(0, 1, 2, 3, 4),
    curve="adapter.r",
)
