"""Which part of GateRA matters: the gate, its dependence on the token, or the entropy term."""

from gatera.studies import Study, Variant

STUDY = Study(
    title="Which part of GateRA matters: gate, token dependence, entropy term",
    reproduces="GateRA (arXiv:2511.17582), Table 5",
    published="gatera_table5",
    variants=(
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("static_gate", changes={"adapter.gate": "static"}),
        Variant("no_entropy", changes={"train.entropy_weight": 0.0}),
        Variant("gatera"),
    ),
    reference="gatera",
    seeds=(0, 1, 2, 3, 4),
)
