"""The tuner: where adapted layers are put into a model, and what PEFT does with the whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_HIRA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from peft.utils.quantization_utils import get_quantization_kwargs, resolve_quantization_backend
from torch import nn
from transformers.pytorch_utils import Conv1D

from gatera.adapter.combining import combine
from gatera.adapter.config import GateraConfig
from gatera.adapter.finding import adapted_layers, encoder_modules, is_encoder_decoder
from gatera.adapter.gates.base import Gate
from gatera.adapter.gates.passes import forward_pass_of
from gatera.adapter.gates.sharing import (
    SharedGate,
    block_input_of,
    block_of,
    input_features,
    stop_listening,
)
from gatera.adapter.layer import GateraLayer, unmergeable
from gatera.adapter.linear import GateraLinear
from gatera.adapter.loading import check_checkpoint
from gatera.errors import InputError

BASE = "__base__"  # in `adapter_names`: this example is for the base model


class GateraModel(BaseTuner):  # type: ignore[misc]
    """A model with GateRA adapters, made by `peft.get_peft_model`.

    Source: GateRA, arXiv:2511.17582.
    """

    prefix: str = "gatera_"  # transformers derives it from the method's name: keep them equal
    tuner_layer_cls = GateraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_HIRA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: GateraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        rank_key = get_pattern_key(peft_config.rank_pattern.keys(), current_key)
        alpha_key = get_pattern_key(peft_config.alpha_pattern.keys(), current_key)
        r = peft_config.rank_pattern.get(rank_key, peft_config.r)
        alpha = peft_config.alpha_pattern.get(alpha_key, peft_config.alpha)
        if peft_config.gate_sharing != "module":
            block_of(self.model, current_key)  # refuses a layer that is in none
        if isinstance(target, GateraLayer):
            target.update_layer(
                adapter_name, peft_config, r, alpha, inference_mode=peft_config.inference_mode
            )
            return
        new_module = self._create_new_module(
            peft_config,
            adapter_name,
            target,
            r=r,
            alpha=alpha,
            quantization=get_quantization_kwargs(self.model),
            name=current_key,
        )
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)
        self._replace_module(parent, target_name, new_module, target)

    @staticmethod
    def _create_new_module(
        config: GateraConfig,
        adapter_name: str,
        target: nn.Module,
        *,
        r: int,
        alpha: float | None,
        quantization: dict[str, Any],
        name: str,
    ) -> GateraLinear:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        fan_in_fan_out = isinstance(base, Conv1D)
        if not isinstance(base, (nn.Linear, Conv1D)):
            backend = resolve_quantization_backend(base, **quantization)
            if backend is None or backend.layer_type != "linear":
                raise InputError(
                    f"target module {name!r} is a {type(base).__name__}, which gatera cannot "
                    "adapt; choose target_modules among the model's torch.nn.Linear, "
                    "transformers Conv1D or quantized linear layers."
                )
            fan_in_fan_out = config.fan_in_fan_out
        return GateraLinear(
            target, adapter_name, config, r, alpha, name, fan_in_fan_out, quantization
        )

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Adapt the target modules, and arrange the gates that layers share or that look back.

        Raises:
            InputError: a target module is in no block, or the model is no decoder, and the gates
                ask for one.
        """
        config: GateraConfig = self.peft_config[adapter_name]
        gate = config.gate_class()
        if gate is not None and is_encoder_decoder(self.model):
            _refuse_gates_of_one_sequence(gate, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if gate is None:
            return
        layers = [(n, layer) for n, layer in adapted_layers(self) if adapter_name in layer.updates]
        if config.gate_sharing != "module":
            _share_gates(model, layers, adapter_name, config)
        if gate.looks_back:
            forward_pass = forward_pass_of(model)
            for name, layer in layers:
                layer.forward_pass = forward_pass
                with contextlib.suppress(InputError):  # a layer in no block is not checkpointed
                    block_name, block = block_of(model, name)
                    block_input_of(block, block_name).forward_pass = forward_pass

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str
    ) -> None:
        """Add an adapter that is the weighted sum of others: Σ weight · g · Δ, exactly.

        Possible for gates that do not depend on the input and for the updates 'hira' and 'lora';
        the new adapter has the sum of the ranks and no gate.

        Raises:
            InputError: the sum of these adapters is no adapter; nothing is added then.
        """
        combine(self, adapters, weights, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Any]
    ) -> dict[str, Any]:
        remapped: dict[str, Any] = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        check_checkpoint(model, adapter_name, remapped)
        return remapped

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """Merge the named adapters (all active ones by default) into the base weights.

        Raises:
            InputError: a gate depends on the input, or a weight is tied; nothing is merged then.
        """
        self._refuse_merge(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._refuse_merge(adapter_names)
        stop_listening(self.model)
        model: nn.Module = super()._unload_and_optionally_merge(
            merge=merge, progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names
        )
        return model

    def _refuse_merge(self, adapter_names: list[str] | None) -> None:
        """Raise before any layer is touched, or a model could be left half merged."""
        uses = _weight_names(self.model)
        for module_name, layer in adapted_layers(self):
            for name in layer.active_adapters if adapter_names is None else adapter_names:
                if name not in layer.updates:
                    continue
                if layer.gate_depends_on_input(name):
                    raise InputError(unmergeable(name, layer.gate[name]))
                shared = uses.get(id(layer.weight), [])
                if len(shared) > 1:
                    raise InputError(
                        f"adapter {name!r} cannot be merged: it adapts {module_name!r}, whose "
                        f"weight is tied ({', '.join(shared)}), so merging would change the other "
                        "use too. Load the base model with tie_word_embeddings=False and give the "
                        "output layer a copy of the embeddings, or keep the adapter unmerged."
                    )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names`, one for each example of the batch, to the layers."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        self._check_adapter_names(adapter_names)
        beams = kwargs.get("num_beams")
        repeated = list(adapter_names)
        if isinstance(beams, int) and beams > 1:
            repeated = [name for name in adapter_names for _ in range(beams)]
        encoder = encoder_modules(self.model)
        handles = []
        for module in self.modules():
            if isinstance(module, (GateraLayer, AuxiliaryTrainingWrapper)):
                # An encoder sees the examples before they are repeated for the beams.
                names = list(adapter_names) if id(module) in encoder else repeated
                hook = partial(_pass_adapter_names, adapter_names=names)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_adapter_names(self, adapter_names: Any) -> None:
        if self.training:
            raise InputError(
                "Cannot pass `adapter_names` when the model is in training mode. Mixed batches are "
                "for inference; call model.eval() first."
            )
        if not isinstance(adapter_names, (list, tuple)):
            raise InputError(
                f"adapter_names is a {type(adapter_names).__name__}; give a list with one adapter "
                "name for each example."
            )
        known = {name for _, layer in adapted_layers(self) for name in layer.updates}
        unknown = sorted({name for name in adapter_names if name != BASE} - known)
        if unknown:
            raise InputError(
                f"adapter_names holds non-existing adapter(s): {', '.join(unknown)}; the model "
                f"has {', '.join(sorted(known))}, and {BASE} stands for the base model."
            )


def _refuse_gates_of_one_sequence(gate: type[Gate], config: GateraConfig) -> None:
    """Raise for gates that need a block whose layers all see its own tokens, and no others."""
    if gate.looks_back:
        raise InputError(
            f"gate={config.gate!r} looks at the tokens before, and this model is an "
            "encoder-decoder, whose layers see two sequences; use gate='token' or gate='mlp'."
        )
    if config.gate_sharing != "module" and gate.input_dependent:
        raise InputError(
            f"gate_sharing={config.gate_sharing!r} makes one gate of the input of a block, and "
            "this model is an encoder-decoder, where keys and values of cross-attention come from "
            "another sequence than the block's; use gate_sharing='module'."
        )


def _share_gates(
    model: nn.Module,
    layers: list[tuple[str, GateraLayer]],
    adapter_name: str,
    config: GateraConfig,
) -> None:
    """Give each layer its part in the gate of its block, or in the one of the model.

    The owner of a gate is the first layer that uses it, in the order of the model.
    """
    owners: dict[str, GateraLayer] = {}
    for name, layer in layers:
        block_name, block = block_of(model, name)
        scope = block_name if config.gate_sharing == "block" else ""
        if scope not in owners:
            owners[scope] = layer
            layer.take_shared_gate(adapter_name, config, input_features(model, block))
        layer.shared_gates[adapter_name] = SharedGate(
            block_input_of(block, block_name), owners[scope]
        )


def _weight_names(model: nn.Module) -> dict[int, list[str]]:
    """From the identity of a parameter to the names it goes by in the model."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": adapter_names}
