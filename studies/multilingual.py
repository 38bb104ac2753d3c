"""What a model that was adapted in English does in other languages, with and without the gate."""

from gatera.studies import Study, Variant

LANGUAGES = ("en", "de", "fr", "zh")
REAL = {
    "data.tasks": [
        *(f"xnli_{language}" for language in LANGUAGES),
        *(f"mgsm_{language}" for language in (*LANGUAGES, "sw")),
    ],
    "data.train_tasks": ["xnli_en", "gsm8k"],
}

STUDY = Study(
    title="Adapted in English, tested in other languages: inference and mathematics",
    variants=(Variant("hira", changes={"adapter.gate": "none"}), Variant("gatera")),
    reference="gatera",
    at_scale={
        # The embedded world's second language, beside the families that are trained on.
        "tiny": {"data.tasks": ["world_easy", "world_hard", "world_second"]},
        "small": REAL,
        "paper": REAL,
    },
    seeds=(0, 1, 2, 3, 4),
)
