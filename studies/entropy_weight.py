"""How the accuracy and the gates depend on λ, the weight of the gates' entropy."""

from gatera.studies import Study, Tuning, Variant

# Three a decade, and none at all; the reference has the scales' own.
WEIGHTS = (0.0, 1e-3, 3e-3, 3e-2, 1e-1, 3e-1, 1.0)


def _name(weight: float) -> str:
    return f"weight_{weight:g}".replace(".", "_")


STUDY = Study(
    title="How accuracy and gates depend on λ, the weight of the gates' entropy",
    variants=(
        *(Variant(_name(w), changes={"train.entropy_weight": w}) for w in WEIGHTS),
        Variant("gatera", changes={"train.entropy_weight": 1e-2}),
        Variant("tuned"),
    ),
    reference="gatera",
    seeds=(0, 1, 2, 3, 4),
    curve="train.entropy_weight",
    tuning=Tuning(search={"train.entropy_weight": (1e-4, 1.0, "log")}, trials=6, seeds=2),
)
