"""The methods beside each other on grade-school mathematics."""

from gatera.studies import Study, Variant

METHODS = ("lora", "dora", "mora", "hira")

STUDY = Study(
    title="Math: LoRA, DoRA, MoRA, HiRA and GateRA",
    reproduces="GateRA (arXiv:2511.17582), Table 3",
    published="gsm8k",
    variants=(
        *(Variant(m, changes={"adapter.delta": m, "adapter.gate": "none"}) for m in METHODS),
        Variant("gatera"),
    ),
    reference="gatera",
    at_scale={
        "tiny": {
            "data.tasks": ["world_sum"],
            "data.train_tasks": ["world_sum"],
            "train.validation_items": 15,  # all that the family holds out
        },
        "small": {"data.tasks": ["gsm8k"], "data.train_tasks": ["gsm8k"]},
        "paper": {
            "data.tasks": ["gsm8k"],
            "data.train_tasks": ["metamath"],
            "train.epochs": 2,
        },
    },
    seeds=(0, 1, 2, 3, 4),
)
