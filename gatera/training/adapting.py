"""Putting a trial's adapter on a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import get_peft_model, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file

from gatera.adapter import GateraConfig, load_own_delta, load_own_gate, seed_adapter
from gatera.adapter.own import is_path
from gatera.errors import InputError


def adapt(model: Any, section: Mapping[str, Any], seed: int) -> Any:
    """Return `model` with a fresh adapter whose initial values follow from the seed.

    A parameter that two variants share by name starts from the same values in both.

    Args:
        model: The frozen backbone; changed in place.
        section: The section `adapter` of a configuration: `method`, and fields of GateraConfig.
        seed: Of the initial values.

    Raises:
        InputError: a field is unknown, or a target module does not exist in the model.
    """
    adapted = attach(model, section)
    seed_adapter(adapted, seed)
    return adapted


def attach(model: Any, section: Mapping[str, Any]) -> Any:
    """Return `model` with an adapter of arbitrary initial values.

    A gate or an update of the user's own is loaded from the file that the section names.

    Raises:
        InputError: as `adapt`.
    """
    _load_own_classes(section)
    fields = {name: value for name, value in section.items() if name != "method"}
    try:
        config = GateraConfig(task_type="CAUSAL_LM", **fields)
    except TypeError as error:
        raise InputError(f"the section 'adapter' is not understood: {error}.") from error
    _check_target_modules(model, section.get("target_modules"))
    return get_peft_model(model, config)


def attach_trained(model: Any, section: Mapping[str, Any], folder: Path) -> Any:
    """Return `model` with the trained adapter in `folder`, as PEFT saved it.

    Settings that training does not see, such as the threshold of the gates, are the section's.

    Raises:
        InputError: as `adapt`, or the weights are not those of such an adapter.
    """
    adapted = attach(model, section)
    weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    found = set_peft_model_state_dict(adapted, weights)
    if unknown := found.unexpected_keys:
        raise InputError(
            f"the weights in {folder} are not those of this adapter: they have {unknown[0]}; move "
            "the folder away, so that its trial trains again."
        )
    return adapted.eval()


def _load_own_classes(section: Mapping[str, Any]) -> None:
    """Run the files of the gate and the update that a study names by path."""
    for name, load in (("gate", load_own_gate), ("delta", load_own_delta)):
        if is_path(str(section.get(name, ""))):
            load(section[name])


def _check_target_modules(model: Any, targets: Any) -> None:
    if targets is None or isinstance(targets, str):
        return  # PEFT's own choice, or a pattern, which PEFT checks
    import torch

    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    missing = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        leaves = sorted({name.rpartition(".")[2] for name in names})
        raise InputError(
            f"adapter.target_modules names {', '.join(missing)}, which this model does not have; "
            f"its linear modules are {', '.join(leaves)}."
        )


def count_parameters(model: Any) -> dict[str, int]:
    """Return the numbers of trainable and of all parameters, adapters included, tied ones once."""
    parameters = list(model.parameters())  # torch lists a shared parameter once
    return {
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "all": sum(p.numel() for p in parameters),
    }
