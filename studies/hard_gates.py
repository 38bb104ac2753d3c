"""What is lost, and what is skipped, where gates below a threshold are closed."""

from gatera.studies import Study, Variant

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
THRESHOLD, IN_TRAINING = "adapter.gate_threshold", "adapter.gate_threshold_in_training"


def _digits(threshold: float) -> str:
    return f"{threshold:g}".replace(".", "_")


STUDY = Study(
    title="Closing gates below a threshold: accuracy against updates skipped",
    variants=(
        # The trained weights are the reference's: these rows are scored alone.
        *(Variant(f"scored_at_{_digits(t)}", changes={THRESHOLD: t}) for t in THRESHOLDS),
        *(
            Variant(f"trained_at_{_digits(t)}", changes={THRESHOLD: t, IN_TRAINING: True})
            for t in THRESHOLDS
        ),
        Variant("gatera"),
    ),
    reference="gatera",
    seeds=(0, 1, 2, 3, 4),
    curve=THRESHOLD,
)
