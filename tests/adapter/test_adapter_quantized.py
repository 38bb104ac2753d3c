"""Base layers whose weight is packed: a stand-in always, bitsandbytes where it is installed."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from gatera import GateraConfig

IN, OUT = 128, 32  # a row of two blocks of bitsandbytes
GATES = ("token", "static", "none", "channel")
DELTAS = ("hira", "lora", "dora", "mora", "hilora")


class PackedLinear(nn.Module):
    """A linear layer of 8-bit integers, one scale a row; its weight has no shape of its own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        packed = (weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed.view(-1, 1), requires_grad=False)
        self.bias = linear.bias

    def unpacked(self) -> Tensor:
        return self.weight.view(self.out_features, self.in_features) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.unpacked(), self.bias)


class PackedBackend(QuantizationBackend):
    """What PEFT asks of a quantized layer, for the stand-in."""

    layer_type = "linear"
    supports_merge = True
    backend_name = "packed"

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        return base_layer.unpacked()

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        linear = nn.Linear(IN, OUT)
        linear.weight.data = weight_data
        packed = PackedLinear(linear)
        base = peft_layer.get_base_layer()
        base.weight, base.scale = packed.weight, packed.scale


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    def resolve(layer: nn.Module, **_: Any) -> QuantizationBackend | None:
        return PackedBackend() if isinstance(layer, PackedLinear) else None

    for module in ("base_weight", "model"):
        monkeypatch.setattr(f"gatera.adapter.{module}.resolve_quantization_backend", resolve)
    torch.manual_seed(2)
    return nn.Sequential(PackedLinear(nn.Linear(IN, OUT)))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where bitsandbytes packs and multiplies: it has code of its own for each."""
    name: str = request.param
    return name


def bitsandbytes_layer(bits: int, device: str, packs_scales: bool = False) -> nn.Module:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    import bitsandbytes

    torch.manual_seed(2)
    linear = nn.Linear(IN, OUT)
    if bits == 4:
        layer = bitsandbytes.nn.Linear4bit(
            IN,
            OUT,
            quant_type="nf4",
            compute_dtype=torch.float32,
            compress_statistics=packs_scales,
        )
    else:
        layer = bitsandbytes.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False)
    layer.load_state_dict(linear.state_dict())
    return nn.Sequential(layer.to(device))


def adapted(base: nn.Module, gate: str, delta: str, **fields: Any) -> PeftModel:
    torch.manual_seed(4)
    settings = {"r": 2, "gate_hidden": 3, "init_weights": False, "target_modules": ["0"], **fields}
    return get_peft_model(base, GateraConfig(gate=gate, delta=delta, **settings))


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def plain_twin(model: PeftModel, gate: str, delta: str) -> PeftModel:
    """The same adapter on an ordinary layer with the weight that the quantized one stands for."""
    layer = model.base_model.model[0]
    linear = nn.Linear(IN, OUT, device=device_of(model))
    with torch.no_grad():
        linear.weight.copy_(layer.get_base_weight())
        linear.bias.copy_(layer.get_base_layer().bias)
    twin = adapted(nn.Sequential(linear), gate, delta)
    for name, parameter in twin.named_parameters():
        if "gatera_" in name:
            parameter.data.copy_(model.get_parameter(name))
    return twin


def check_against_its_twin(base: nn.Module, gate: str, delta: str, tolerance: float) -> None:
    model = adapted(base, gate, delta)
    twin = plain_twin(model, gate, delta)
    x = torch.randn(3, 4, IN, generator=torch.Generator().manual_seed(1)).to(device_of(model))
    for training in (True, False):
        gradients = []
        outputs = []
        for one in (model.train(training), twin.train(training)):
            one.zero_grad()
            layer = one.base_model.model[0]
            y = layer(x) - layer.get_base_layer()(x)  # bitsandbytes rounds the base layer's part
            y.square().sum().backward()
            outputs.append(y.detach())
            gradients.append({n: p.grad for n, p in one.named_parameters() if p.requires_grad})
        torch.testing.assert_close(outputs[0], outputs[1], rtol=tolerance, atol=tolerance)
        for name, gradient in gradients[1].items():
            scale = gradient.abs().max().clamp(min=1)
            difference = (gradients[0][name] - gradient).abs().max()
            assert difference <= tolerance * scale * 10, name


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_a_packed_weight_gives_what_its_unpacked_twin_gives(
    packed: nn.Module, gate: str, delta: str
) -> None:
    check_against_its_twin(packed, gate, delta, 1e-4)


@pytest.mark.parametrize("delta", DELTAS)
def test_merging_into_a_packed_weight_and_back(packed: nn.Module, delta: str) -> None:
    model = adapted(packed, "static", delta).eval()
    layer = model.base_model.model[0]
    x = torch.randn(3, IN)
    expected = model(x)
    before = layer.get_base_layer().weight.clone()
    model.merge_adapter()
    assert not torch.equal(layer.get_base_layer().weight, before)
    assert (model(x) - expected).abs().max() < 0.02 * expected.abs().max()  # 8 bits
    model.unmerge_adapter()
    assert torch.equal(layer.get_base_layer().weight, before)


def check_that_no_weight_is_kept(model: PeftModel, x: Tensor) -> None:
    """Nothing of the weight's size but the parameters themselves stays for the backward pass."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = model(x)
    assert max(sizes) < IN * OUT
    y.square().sum().backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_no_unpacked_weight_is_kept_for_the_backward_pass(
    packed: nn.Module, gate: str, delta: str
) -> None:
    # The input needs no gradient: the stand-in's own forward pass would keep the weight for it.
    check_that_no_weight_is_kept(adapted(packed, gate, delta).train(), torch.randn(3, 4, IN))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("delta", DELTAS)
def test_dropout_keeps_no_unpacked_weight_either(delta: str, bits: int, device: str) -> None:
    model = adapted(bitsandbytes_layer(bits, device), "token", delta, dropout=0.5).train()
    x = torch.randn(3, 4, IN, device=device, requires_grad=True)
    check_that_no_weight_is_kept(model, x)


@pytest.fixture
def compiler() -> Iterator[None]:
    """A compiler that counts the recompilations of this test alone."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("delta", ["hira", "hilora"])
@pytest.mark.parametrize("gate", GATES)
def test_a_packed_weight_under_checkpointing_and_compilation(
    packed: nn.Module, gate: str, delta: str
) -> None:
    model = adapted(packed, gate, delta).train()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    found = []
    for run in (model, compiled, lambda x: checkpoint(model, x, use_reentrant=False)):
        x = torch.randn(3, IN, generator=torch.Generator().manual_seed(1)).requires_grad_()
        own = compiled if run is compiled else model
        own.zero_grad()
        run(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in own.parameters() if p.requires_grad)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("gate", GATES)
def test_second_derivatives_of_a_packed_weight(packed: nn.Module, gate: str) -> None:
    model = adapted(packed, gate, "hira")
    found = []
    for one in (model, plain_twin(model, gate, "hira")):
        layer = one.base_model.model[0]
        x = torch.randn(3, IN, generator=torch.Generator().manual_seed(1)).requires_grad_()
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append([p.grad for p in one.parameters() if p.requires_grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("delta", DELTAS)
def test_no_weight_of_a_bitsandbytes_layer_is_kept(delta: str, bits: int, device: str) -> None:
    model = adapted(bitsandbytes_layer(bits, device), "token", delta).train()
    x = torch.randn(3, 4, IN, device=device, requires_grad=True)
    check_that_no_weight_is_kept(model, x)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_bitsandbytes_layers(gate: str, delta: str, bits: int, device: str) -> None:
    check_against_its_twin(bitsandbytes_layer(bits, device), gate, delta, 0.05)


KINDS = ((4, False), (4, True), (8, False))  # bits, whether the scales are packed too


@pytest.mark.parametrize(("bits", "packs_scales"), KINDS)
@pytest.mark.parametrize("delta", DELTAS)
def test_merging_into_a_bitsandbytes_weight_and_back(
    delta: str, bits: int, packs_scales: bool, device: str
) -> None:
    model = adapted(bitsandbytes_layer(bits, device, packs_scales), "static", delta).eval()
    x = torch.randn(3, IN, device=device)
    with torch.no_grad():
        expected = model(x)  # packs the weight another time on some processors
        model.merge_adapter()
        assert (model(x) - expected).abs().max() < {4: 0.15, 8: 0.03}[bits] * expected.abs().max()
        model.unmerge_adapter()
        assert (model(x) - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize(("bits", "packs_scales"), KINDS)
@pytest.mark.parametrize("delta", DELTAS)
def test_unmerging_gives_a_bitsandbytes_layer_its_own_bits_back(
    delta: str, bits: int, packs_scales: bool, device: str
) -> None:
    model = adapted(bitsandbytes_layer(bits, device, packs_scales), "none", delta).eval()
    layer = model.base_model.model[0]
    kept, read = layer.get_base_layer().weight.data.clone(), layer.get_base_weight().clone()
    names = sorted(model.state_dict())
    deltas = []
    for _ in range(2):
        deltas.append(layer.get_delta_weight("default"))
        model.merge_adapter()
        assert not torch.equal(layer.get_base_weight(), read)
        assert torch.equal(layer.get_delta_weight("default"), deltas[0])
        model = copy.deepcopy(model)
        layer = model.base_model.model[0]
        assert sorted(model.state_dict()) == names
        model.unmerge_adapter()
        assert torch.equal(layer.get_base_layer().weight.data, kept)
        assert torch.equal(layer.get_base_weight(), read)
        model.to(device)
        assert torch.equal(layer.get_base_weight(), read)


def test_a_bitsandbytes_layer_that_was_packed_already_is_read_right() -> None:
    base = bitsandbytes_layer(4, "cpu").eval()
    with torch.no_grad():
        base(torch.randn(2, IN))  # packs the weight on some processors
    fresh = adapted(bitsandbytes_layer(4, "cpu"), "none", "hira").base_model.model[0]
    layer = adapted(base, "none", "hira").base_model.model[0]
    # Packing rounds the scales of the blocks to bfloat16.
    torch.testing.assert_close(
        layer.get_base_weight(), fresh.get_base_weight(), rtol=1e-2, atol=1e-3
    )


def test_the_status_names_the_backend(packed: nn.Module) -> None:
    model = adapted(packed, "token", "hira")
    assert model.base_model.model[0].quantization_backend.backend_name == "packed"
