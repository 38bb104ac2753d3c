"""The updates: what a gate is put before.

One file each, a line in `DELTAS`, which names them all, and the name in `gatera.settings`. An
update says which parameters it has and how it is computed from them; the arithmetic is in
`kernels`, and what tensors it is given, and when, is left to the adapted layer.
"""

from collections.abc import Mapping

from gatera.adapter.updates.base import Delta
from gatera.adapter.updates.dora import Dora
from gatera.adapter.updates.hilora import Hilora
from gatera.adapter.updates.hira import Hira
from gatera.adapter.updates.lora import Lora
from gatera.adapter.updates.mora import Mora

DELTAS: Mapping[str, type[Delta]] = {
    "hira": Hira,
    "lora": Lora,
    "dora": Dora,
    "mora": Mora,
    "hilora": Hilora,
}
