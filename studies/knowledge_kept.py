"""Is less pre-trained knowledge lost at equal accuracy, with the gate than without?"""

from gatera.studies import Study, Tuning, Variant

METHODS = ("lora", "dora", "mora", "hira")

STUDY = Study(
    title="Is less pre-trained knowledge lost at equal accuracy: baselines beside GateRA",
    variants=(
        *(Variant(m, changes={"adapter.delta": m, "adapter.gate": "none"}) for m in METHODS),
        Variant("gatera"),
    ),
    reference="gatera",
    # Followed closely, so that there is a loss at every accuracy on the way; validated as it is
    # scored, since a rate that finds the right option may still not write it.
    defaults={"train.knowledge": "auto", "train.validation_method": "generate"},
    at_scale={"tiny": {"train.validation_every": 10}},
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
