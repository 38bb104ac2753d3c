"""The methods beside each other on dialogue: replies that fit a persona."""

from gatera.studies import Study, Variant

METHODS = ("lora", "dora", "mora", "hira")

STUDY = Study(
    title="Dialogue: LoRA, DoRA, MoRA, HiRA and GateRA",
    reproduces="GateRA (arXiv:2511.17582), Table 2",
    published="dialogue",
    variants=(
        *(Variant(m, changes={"adapter.delta": m, "adapter.gate": "none"}) for m in METHODS),
        Variant("gatera"),
    ),
    reference="gatera",
    endpoint="rouge_l",
    at_scale={
        "tiny": {
            "data.tasks": ["world_reply"],
            "data.train_tasks": ["world_reply"],
            "train.validation_items": 15,  # all that the family holds out
        },
        "small": {"data.tasks": ["convai2"], "data.train_tasks": ["convai2"]},
        "paper": {
            "data.tasks": ["convai2"],
            "data.train_tasks": ["convai2"],
            "train.epochs": 1,
        },
    },
    seeds=(0, 1, 2, 3, 4),
)
