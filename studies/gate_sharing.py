"""How many gates are needed: one a module, one a transformer block, or one set for the model."""

from gatera.studies import Study, Variant

STUDY = Study(
    title="How many gates are needed: for each module, each block, or the model",
    variants=(
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("model_gate", changes={"adapter.gate_sharing": "model"}),
        Variant("block_gates", changes={"adapter.gate_sharing": "block"}),
        Variant("gatera"),
    ),
    reference="gatera",
    seeds=(0, 1, 2, 3, 4),
)
