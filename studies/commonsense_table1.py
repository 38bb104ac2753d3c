"""The methods beside each other, each at the learning rate that validation chose for it."""

from gatera.studies import Study, Tuning, Variant

METHODS = ("lora", "dora", "mora", "hira")

STUDY = Study(
    title="LoRA, DoRA, MoRA, HiRA and GateRA, each at its own learning rate",
    reproduces="GateRA (arXiv:2511.17582), Table 1",
    published="commonsense",
    variants=(
        *(Variant(m, changes={"adapter.delta": m, "adapter.gate": "none"}) for m in METHODS),
        Variant("gatera"),
    ),
    reference="gatera",
    # Validated as it is scored: a rate that finds the right option may still not write it.
    defaults={"train.validation_method": "generate"},
    seeds=(0, 1, 2, 3, 4),
    tuning=Tuning(
        search={"train.learning_rate": (1e-3, 1e-1, "log")},
        # An additive update takes a lower rate than one that multiplies the frozen weight.
        by_variant={
            method: {"train.learning_rate": (3e-4, 3e-2, "log")}
            for method in ("lora", "dora", "mora")
        },
        trials=6,
        seeds=2,
    ),
)
