"""Is the gate worth the same on every update: additive, directional, multiplicative, both?"""

from gatera.studies import Contrast, Study, Tuning, Variant

DELTAS = ("lora", "dora", "mora", "hira", "hilora")
ADDITIVE = ("lora", "dora", "mora")
REFERENCE = "hira"

STUDY = Study(
    title="Is the gate worth the same on every update: LoRA, DoRA, MoRA, HiRA, HiLoRA",
    variants=(
        *(
            Variant(delta, changes={"adapter.delta": delta, "adapter.gate": "none"})
            for delta in DELTAS
        ),
        *(Variant(f"gated_{delta}", changes={"adapter.delta": delta}) for delta in DELTAS),
    ),
    reference=f"gated_{REFERENCE}",
    contrasts=(
        *(Contrast(f"gate on {delta}", {f"gated_{delta}": 1, delta: -1}) for delta in DELTAS),
        *(
            Contrast(
                f"gain on {delta} against {REFERENCE}",
                {f"gated_{delta}": 1, delta: -1, f"gated_{REFERENCE}": -1, REFERENCE: 1},
            )
            for delta in DELTAS
            if delta != REFERENCE
        ),
    ),
    # Validated as it is scored: a rate that finds the right option may still not write it.
    defaults={"train.validation_method": "generate"},
    seeds=(0, 1, 2, 3, 4),
    tuning=Tuning(
        search={"train.learning_rate": (1e-3, 1e-1, "log")},
        # An additive update takes a lower rate than one that multiplies the frozen weight.
        by_variant={
            name: {"train.learning_rate": (3e-4, 3e-2, "log")}
            for delta in ADDITIVE
            for name in (delta, f"gated_{delta}")
        },
        trials=6,
        seeds=2,
    ),
)
