"""Which modules to adapt: attention, feed-forward or both, each with and without the gate."""

from gatera.studies import Contrast, Study, Variant

FC = ["up_proj", "down_proj"]
QKV = ["q_proj", "k_proj", "v_proj"]

STUDY = Study(
    title="Which modules to adapt: FC, QKV or both, with and without the gate",
    reproduces="GateRA (arXiv:2511.17582), Table 4",
    published="gatera_table4",
    variants=(
        Variant("hira_fc", changes={"adapter.gate": "none", "adapter.target_modules": FC}),
        Variant("gatera_fc", changes={"adapter.target_modules": FC}),
        Variant("hira_qkv", changes={"adapter.gate": "none", "adapter.target_modules": QKV}),
        Variant("gatera_qkv", changes={"adapter.target_modules": QKV}),
        Variant("hira", changes={"adapter.gate": "none"}),
        Variant("gatera"),
    ),
    reference="gatera",
    contrasts=(
        Contrast("gate on FC", {"gatera_fc": 1, "hira_fc": -1}),
        Contrast("gate on QKV", {"gatera_qkv": 1, "hira_qkv": -1}),
        Contrast("gate on QKV + FC", {"gatera": 1, "hira": -1}),
    ),
    seeds=(0, 1, 2, 3, 4),
)
