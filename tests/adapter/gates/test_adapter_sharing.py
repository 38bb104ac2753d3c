"""Shared gates: how many there are, and where one cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from gatera import GateraConfig
from gatera.adapter.layer import GateraLayer
from gatera.errors import InputError

MakeLlama = Callable[[], LlamaForCausalLM]
TARGETS = ["q_proj", "up_proj", "down_proj"]


class Nested(nn.Module):
    """Blocks that hold no linear layer of their own right."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(width, 3)})])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0]["up"](x)


def config(sharing: str, **fields: object) -> GateraConfig:
    return GateraConfig(r=2, gate_sharing=sharing, target_modules=TARGETS, **fields)


@pytest.mark.parametrize(("sharing", "gates"), [("module", 6), ("block", 2), ("model", 1)])
def test_the_number_of_gates_is_that_of_the_sharing(
    llama: MakeLlama, sharing: str, gates: int
) -> None:
    model = get_peft_model(llama(), config(sharing))
    weights = [n for n, _ in model.named_parameters() if n.endswith("gatera_gate.default.weight")]
    assert len(weights) == gates
    if sharing != "module":
        assert weights[0].startswith("base_model.model.model.layers.0.self_attn.q_proj")


@pytest.mark.parametrize("sharing", ["block", "model"])
def test_a_layer_outside_of_the_blocks_is_refused(llama: MakeLlama, sharing: str) -> None:
    outside = GateraConfig(r=2, gate_sharing=sharing, target_modules=["lm_head"])
    with pytest.raises(InputError, match=r"'lm_head' is in no block of the model .* exclude_mod"):
        get_peft_model(llama(), outside)


@pytest.mark.parametrize("sharing", ["block", "model"])
def test_encoder_decoders_are_refused(sharing: str) -> None:
    """Keys and values of cross-attention see the encoder's tokens, its block the decoder's."""
    sizes = {"vocab_size": 31, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **sizes))
    shared = GateraConfig(r=2, gate_sharing=sharing, target_modules=["q", "v"])
    message = rf"gate_sharing='{sharing}' .* is an encoder-decoder, .* gate_sharing='module'"
    with pytest.raises(InputError, match=message):
        get_peft_model(model, shared)
    assert not any(isinstance(module, GateraLayer) for module in model.modules())
    whole_layers = GateraConfig(
        r=2, gate="static", gate_sharing=sharing, target_modules=["q", "v"], init_weights=False
    )
    ids = torch.tensor([[3, 4, 5, 6]])
    get_peft_model(model, whole_layers)(input_ids=ids, labels=ids[:, :3]).loss.backward()


def test_a_layer_called_without_its_block_is_refused(llama: MakeLlama) -> None:
    model = get_peft_model(llama(), config("block")).eval()
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    model(input_ids=torch.tensor([[4, 5]]))
    with pytest.raises(InputError, match=r"share reads the input of that block, and there is none"):
        layer(torch.randn(1, 2, 24))


def test_the_width_of_a_block_is_told_by_its_first_layer_or_refused() -> None:
    shared = GateraConfig(r=2, gate_sharing="block", target_modules=["up"])
    model = get_peft_model(Nested(), shared)
    assert model.base_model.model.layers[0]["up"].gatera_gate["default"].weight.shape == (1, 5)


def test_gates_of_channels_are_not_shared() -> None:
    with pytest.raises(InputError, match=r"gate='channel' has a value for each output channel"):
        GateraConfig(gate="channel", gate_sharing="block")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gate_hidden": 0}, r"gate_hidden=0: expected a whole number of at least 1"),
        ({"gate_threshold": 1.0}, r"gate_threshold=1\.0: expected a number from 0 up to"),
        ({"gate_threshold": -0.1}, r"gate_threshold=-0\.1: expected a number from 0 up to"),
        ({"gate_sharing": "layer"}, r"gate_sharing=layer: expected one of module, block, model"),
        ({"mora_type": "turn"}, r"mora_type=turn: expected one of rotate, share"),
    ],
)
def test_wrong_settings_of_gates_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GateraConfig(**fields)


class Crossing(nn.Module):
    """Blocks whose second layer reads another sequence than the block does."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.ModuleDict({"up": nn.Linear(5, 5), "cross": nn.Linear(5, 5)})
        self.layers = nn.ModuleList([CrossingBlock(block)])

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.layers[0](x, other)


class CrossingBlock(nn.Module):
    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.parts["up"](x) + self.parts["cross"](other).mean(1, keepdim=True)


def test_a_layer_that_sees_other_tokens_than_its_block_is_refused_where_it_runs() -> None:
    shared = GateraConfig(r=2, gate_sharing="block", target_modules=["up", "cross"])
    model = get_peft_model(Crossing(), shared)
    x, other = torch.randn(2, 3, 5), torch.randn(2, 7, 5)
    with pytest.raises(InputError, match=r"cross sees tokens \(2, 7\), .* block's \(2, 3\); leave"):
        model(x, other)
    assert model(x, torch.randn(2, 3, 5)).shape == (2, 3, 5)
