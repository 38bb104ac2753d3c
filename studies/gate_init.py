"""What the gates begin with, and how fast they learn: is it this that makes seeds scatter?"""

from gatera.studies import Contrast, Study, Variant

RATE = "train.gate_learning_rate_factor"

STUDY = Study(
    title="Where gates begin and how fast they learn: bias, spread, learning rate",
    variants=(
        Variant("bias_closed", changes={"adapter.gate_bias": -2.0}),
        Variant("bias_open", changes={"adapter.gate_bias": 2.0}),
        Variant("no_spread", changes={"adapter.gate_init_std": 0.0}),
        Variant("wide_spread", changes={"adapter.gate_init_std": 0.2}),
        Variant("slow_gate", changes={RATE: 0.1}),
        Variant("fast_gate", changes={RATE: 10.0}),
        Variant("static_gate", changes={"adapter.gate": "static"}),
        # One number from 0 moves slowly at a rate that suits matrices.
        Variant(
            "fast_static_gate", changes={"adapter.gate": "static", RATE: 10.0}, confounds=(RATE,)
        ),
        Variant("gatera"),
    ),
    reference="gatera",
    contrasts=(
        Contrast("gate closed at first", {"bias_closed": 1, "gatera": -1}),
        Contrast("gate open at first", {"bias_open": 1, "gatera": -1}),
        Contrast("gates all alike at first", {"no_spread": 1, "gatera": -1}),
        Contrast("gates far apart at first", {"wide_spread": 1, "gatera": -1}),
        Contrast("gate learns at a tenth", {"slow_gate": 1, "gatera": -1}),
        Contrast("gate learns ten times as fast", {"fast_gate": 1, "gatera": -1}),
        Contrast("static gate at ten times the rate", {"fast_static_gate": 1, "static_gate": -1}),
        Contrast("token beside the faster static gate", {"gatera": 1, "fast_static_gate": -1}),
    ),
    seeds=(0, 1, 2, 3, 4),
)
