"""Which modules to adapt: attention, feed-forward or both, each with and without the gate."""

from gatera.studies import Contrast, Study, Variant

# Part of the model -> its modules; both together are the scales' own.
PARTS = {
    "fc": ["up_proj", "down_proj"],
    "qkv": ["q_proj", "k_proj", "v_proj"],
    "q": ["q_proj"],
    "k": ["k_proj"],
    "v": ["v_proj"],
    "qk": ["q_proj", "k_proj"],
    "qv": ["q_proj", "v_proj"],
}


def _pair(part: str) -> tuple[Variant, Variant]:
    modules = PARTS[part]
    return (
        Variant(
            f"hira_{part}", changes={"adapter.gate": "none", "adapter.target_modules": modules}
        ),
        Variant(f"gatera_{part}", changes={"adapter.target_modules": modules}),
    )


STUDY = Study(
    title="Which modules to adapt: FC, QKV, both, or parts of QKV, with and without the gate",
    reproduces="GateRA (arXiv:2511.17582), Table 4",
    published="gatera_table4",
    variants=(
        *(variant for part in PARTS for variant in _pair(part)),
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("gatera"),
    ),
    reference="gatera",
    contrasts=(
        *(
            Contrast(f"gate on {part.upper()}", {f"gatera_{part}": 1, f"hira_{part}": -1})
            for part in PARTS
        ),
        Contrast("gate on QKV + FC", {"gatera": 1, "hira": -1}),
    ),
    seeds=(0, 1, 2, 3, 4),
)
