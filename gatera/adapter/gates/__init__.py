"""The gates: what decides how much of the update a token gets.

One file each, a line in `GATES`, which names them all, and the name in `gatera.settings`. Beside
them lies what gates need to know of the model around their layer: the block that they are shared in
(`sharing`), the tokens before (`passes`), and which are real (`masks`). What a gate's value does to
the update is left to `updates`.
"""

from collections.abc import Mapping

from gatera.adapter.gates.attention import AttentionGate
from gatera.adapter.gates.base import Gate
from gatera.adapter.gates.channel import ChannelGate
from gatera.adapter.gates.mlp import MlpGate
from gatera.adapter.gates.static import StaticGate
from gatera.adapter.gates.token import TokenGate

GATES: Mapping[str, type[Gate] | None] = {
    "token": TokenGate,
    "static": StaticGate,
    "none": None,
    "mlp": MlpGate,
    "attention": AttentionGate,
    "channel": ChannelGate,
}
