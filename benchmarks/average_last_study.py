"""GateRA with its best checkpoint and with the mean of its last: `average_last.py` runs it."""

from gatera.studies import Study, Variant

# Eight validations in the 80 steps of `tiny`, in every row.
STUDY = Study(
    title="The best checkpoint, or the mean of the last: how much of the spread over seeds goes",
    variants=(
        Variant("best"),
        Variant("last_2", changes={"train.average_last": 2}),
        Variant("last_4", changes={"train.average_last": 4}),
    ),
    reference="best",
    seeds=tuple(range(100, 120)),
    at_scale={"tiny": {"train.validation_every": 10}},
)
