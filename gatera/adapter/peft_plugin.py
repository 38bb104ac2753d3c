"""The one place that makes PEFT know the method.

PEFT has no entry points: it looks methods up in three dictionaries keyed by members of its own
enum, which compare by their string. A one-member enum of ours fits these dictionaries, and
`get_peft_model`, `PeftModel.from_pretrained` and transformers' adapter loaders then work.
"""

from __future__ import annotations

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PeftType
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

from gatera.adapter.config import GateraConfig, GateraPeftType
from gatera.adapter.model import GateraModel


def register() -> None:
    """Put the method into PEFT's tables; a second call changes nothing.

    Raises:
        ImportError: PEFT, or another package, has a method named GATERA.
    """
    key = GateraPeftType.GATERA
    if key.value in PeftType.__members__:
        raise ImportError(
            "this version of peft has a GATERA method of its own, so gatera cannot register its; "
            "install a version of peft that gatera supports (peft>=0.21,<0.22)."
        )
    owner = PEFT_TYPE_TO_CONFIG_MAPPING.get(key, GateraConfig).__module__
    if owner.split(".")[0] != "gatera":
        raise ImportError(
            f"the PEFT method GATERA is registered already, by {owner}; only one package can own "
            "it, so import either that package or gatera, not both."
        )
    PEFT_TYPE_TO_CONFIG_MAPPING[key] = GateraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[key] = GateraModel
    PEFT_TYPE_TO_PREFIX_MAPPING[key] = GateraModel.prefix
