"""Table 5 with each row tuned alike: learning rate and λ chosen on validation data."""

from gatera.studies import Study, Tuning, Variant

STUDY = Study(
    title="Table 5 with each row tuned alike",
    reproduces="GateRA (arXiv:2511.17582), Table 5",
    published="gatera_table5",
    variants=(
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("static_gate", changes={"adapter.gate": "static"}),
        Variant("no_entropy", changes={"train.entropy_weight": 0.0}),
        Variant("gatera"),
    ),
    reference="gatera",
    # Validated as it is scored: a rate that finds the right option may still not write it.
    defaults={"train.validation_method": "generate"},
    seeds=(0, 1, 2, 3, 4),
    tuning=Tuning(
        search={
            "train.learning_rate": (1e-3, 1e-1, "log"),
            "train.entropy_weight": (1e-4, 1.0, "log"),
        },
        trials=8,
    ),
)
