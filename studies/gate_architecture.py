"""Does a richer gate pay: one that reads more, or says more, than σ(w·x + b)."""

from gatera.studies import Study, Variant

STUDY = Study(
    title="Does a richer gate pay: token, hidden layer, attention, channels, or one value a layer",
    variants=(
        Variant("hira", changes={"adapter.gate": "none"}),
        *(
            Variant(f"{gate}_gate", changes={"adapter.gate": gate})
            for gate in ("static", "mlp", "attention", "channel")
        ),
        Variant("gatera"),
    ),
    reference="gatera",
    seeds=(0, 1, 2, 3, 4),
)
