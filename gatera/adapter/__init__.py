"""GateRA as a native PEFT method (arXiv:2511.17582): a gate for each token on a weight update.

Importing this package registers the method with PEFT; see `peft_plugin`. Here are the tuner that
PEFT makes (`model`), its configuration and the adapted layer; `updates` and `gates` say what a
layer computes, `kernels` how, and `reading` what the gates did. Training is left to the callers.
"""

from gatera.adapter.config import GateraConfig
from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.kernels.cache import limit_kept_products
from gatera.adapter.layer import GateraLayer
from gatera.adapter.linear import GateraLinear
from gatera.adapter.model import GateraModel
from gatera.adapter.own import load_own_delta, load_own_gate
from gatera.adapter.peft_plugin import register
from gatera.adapter.reading.recorder import GateRecorder, record_gates
from gatera.adapter.reading.statistics import GateStatistics
from gatera.adapter.seeding import seed_adapter
from gatera.adapter.updates.base import Delta

__all__ = [
    "Delta",
    "Gate",
    "GateRecorder",
    "GateShape",
    "GateStatistics",
    "GateraConfig",
    "GateraLayer",
    "GateraLinear",
    "GateraModel",
    "limit_kept_products",
    "load_own_delta",
    "load_own_gate",
    "record_gates",
    "seed_adapter",
]

register()
