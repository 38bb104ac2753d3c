"""The adapter on a CUDA device: against the processor's float64, and what only a GPU has."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM

from gatera import GateraConfig, record_gates
from gatera.adapter.kernels import fused
from gatera.adapter.kernels.blocks import hadamard_product
from gatera.adapter.kernels.cache import products

pytestmark = pytest.mark.gpu

GATES = ("token", "static", "none", "mlp", "attention", "channel")
DELTAS = ("hira", "lora", "dora", "mora", "hilora")


@pytest.fixture(autouse=True)
def _kernel_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights take the kernel too, which else is for large ones."""
    for limit in ("_LEAST_ELEMENTS", "_LEAST_ELEMENTS_OF_MIXED_TYPES"):
        monkeypatch.setattr(fused, limit, 1)


MakeLlama = Callable[[], LlamaForCausalLM]


def adapted(llama: MakeLlama, gate: str, delta: str, **others: Any) -> PeftModel:
    """A small model with random adapters, float64, on the processor."""
    torch.manual_seed(5)
    fields = {
        "r": 4,
        "gate_init_std": 0.7,
        "gate_bias": 0.3,
        "gate_hidden": 3,
        "init_weights": False,
        "target_modules": ["q_proj", "up_proj", "down_proj"],
        **others,
    }
    return get_peft_model(llama().double(), GateraConfig(gate=gate, delta=delta, **fields)).double()


def tokens() -> dict[str, Tensor]:
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # padding on the left
    return {"input_ids": ids, "attention_mask": mask}


def on_cuda(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cuda() for name, tensor in given.items()}


def loss_and_gradients(model: PeftModel, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits of the real tokens and the trained parameters' gradients, float64, here."""
    model.zero_grad()
    logits = model(**given).logits[given["attention_mask"].bool()].double()
    logits.square().mean().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    # Copies: a move of the model takes the gradients along.
    found = {name: p.grad.to("cpu", torch.float64, copy=True) for name, p in trained.items()}
    return {"logits": logits.detach().cpu(), **found}


def check_close(found: dict[str, Tensor], expected: dict[str, Tensor], most: float) -> None:
    """Each within `most` of the expected norm, or of a tenth of the largest gradient's."""
    least = most * max(value.norm() for name, value in expected.items() if name != "logits")
    for name, value in expected.items():
        difference = (found[name] - value).norm()
        assert difference <= max(most * value.norm(), least * 0.1), name


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_every_gate_and_update_gives_what_it_gives_in_float64(
    llama: MakeLlama, gate: str, delta: str, dtype: torch.dtype, most: float
) -> None:
    """LLaMA's own rotations are float32 whatever the type, and come out a little different."""
    model = adapted(llama, gate, delta)
    expected = loss_and_gradients(model, tokens())
    model.to("cuda", dtype)
    for training in (True, False):
        found = loss_and_gradients(model.train(training), on_cuda(tokens()))
        check_close(found, expected, most)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("gate", ["token", "static", "none"])
def test_bfloat16_comes_close(llama: MakeLlama, gate: str, autocast: bool) -> None:
    model = adapted(llama, gate, "hira")
    expected = loss_and_gradients(model, tokens())
    for name, parameter in model.named_parameters():
        adapters_stay_wide = autocast and "gatera_" in name
        parameter.data = parameter.data.to(torch.float32 if adapters_stay_wide else torch.bfloat16)
    model.to("cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = loss_and_gradients(model, on_cuda(tokens()))
    check_close(found, expected, 0.06)


@pytest.mark.parametrize("gate", GATES)
def test_generating_with_a_cache_gives_what_full_passes_give(llama: MakeLlama, gate: str) -> None:
    model = adapted(llama, gate, "hira").eval()
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with record_gates(model) as gates:
        expected = model.generate(**tokens(), **options)
    statistics = gates.overall(part="decoded")
    model.to("cuda", torch.float32)
    given = on_cuda(tokens())
    with record_gates(model) as gates:
        cached = model.generate(**given, **options)
    assert torch.equal(cached.cpu(), expected)
    assert gates.overall(part="decoded") == pytest.approx(statistics, rel=1e-3, nan_ok=True)
    assert torch.equal(cached, model.generate(**given, **options, use_cache=False))
    sampled = {**options, "do_sample": True, "top_k": 5}
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        outputs.append(model.generate(**given, **sampled, use_cache=use_cache))
    assert torch.equal(*outputs)


def test_checkpointing_and_compilation_give_the_same_gradients(llama: MakeLlama) -> None:
    model = adapted(llama, "token", "hira").to("cuda", torch.float32).train()
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True)
    found = []
    for run in (layer, compiled, lambda x: checkpoint(layer, x, use_reentrant=False)):
        own = compiled if run is compiled else layer
        own.zero_grad()
        x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)).cuda()
        x.requires_grad_()
        run(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in own.parameters() if p.requires_grad)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


def test_an_adapter_can_be_put_on_a_model_that_lies_there(llama: MakeLlama) -> None:
    """The values are those drawn on the processor, whatever the device."""
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(5)
        config = GateraConfig(r=4, delta="dora", target_modules=["q_proj"], init_weights=False)
        model = get_peft_model(llama().to(device), config)
        found.append({n: p for n, p in model.named_parameters() if "gatera_" in n})
        assert {p.device.type for p in found[-1].values()} == {device}
    for name, parameter in found[0].items():
        torch.testing.assert_close(found[1][name].cpu(), parameter, rtol=1e-5, atol=1e-6)


def test_merging_and_unmerging_restore_the_weight(llama: MakeLlama) -> None:
    model = adapted(llama, "static", "hira").to("cuda", torch.bfloat16).eval()
    weight = model.base_model.model.model.layers[0].mlp.up_proj.get_base_layer().weight
    before = weight.clone()
    model.merge_adapter()
    assert not torch.equal(weight, before)
    model.unmerge_adapter()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("delta", ["hira", "lora"])
def test_a_merged_layer_holds_its_weight_once_on_the_device(delta: str) -> None:
    size = 1024
    torch.manual_seed(2)
    base = nn.Sequential(nn.Linear(size, size, bias=False)).to("cuda", torch.bfloat16)
    config = GateraConfig(r=2, gate="static", delta=delta, init_weights=False, target_modules=["0"])
    model = get_peft_model(base, config)
    model.add_adapter("other", config)
    layer = model.base_model.model[0]
    original = layer.get_base_layer().weight.detach().clone()
    held = torch.cuda.memory_allocated()
    model.merge_adapter()
    model.merge_adapter(adapter_names=["other"])
    assert torch.cuda.memory_allocated() < held + size * size
    both = layer.get_base_layer().weight
    expected = original.float()
    for name in ("default", "other"):
        expected = expected + layer.get_delta_weight(name).float()
    torch.testing.assert_close(both.float(), expected, rtol=0.02, atol=0.02)

    model.to("cpu")
    model.unmerge_adapter()
    assert layer.get_base_layer().weight.device.type == "cpu"
    assert torch.equal(layer.get_base_layer().weight, original.cpu())
    model.to("cuda")
    model.merge_adapter()
    model.unmerge_adapter()
    assert torch.equal(layer.get_base_layer().weight, original)


def test_a_product_kept_for_evaluation_goes_when_a_factor_changes(llama: MakeLlama) -> None:
    model = adapted(llama, "token", "hira").to("cuda", torch.float32).eval()
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    x = torch.randn(3, 24, device="cuda")
    with torch.no_grad():
        first = layer(x)
        layer.gatera_B["default"].mul_(2)
        second = layer(x)
        products.discard(layer)
        assert torch.equal(layer(x), second)
    assert not torch.allclose(first, second)


def test_a_step_keeps_no_memory_of_the_weights_size() -> None:
    into, out, count = 1024, 4096, 64
    base = nn.Sequential(nn.Linear(into, out, bias=False)).to("cuda", torch.bfloat16)
    model = get_peft_model(base, GateraConfig(r=8, target_modules=["0"]))
    x = torch.randn(count, into, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    model(x).sum().backward()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    y = model(x)
    kept = torch.cuda.memory_allocated() - before
    assert kept < y.numel() * y.element_size() + into * out / 10
    y.sum().backward()


# W ⊙ (BA) in one pass


SHAPES = [(1, 1, 1), (64, 128, 16), (65, 129, 3), (200, 70, 40), (7, 300, 128), (1030, 517, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("lies", ["by rows", "by columns", "within another"])
@pytest.mark.parametrize(
    ("base", "factors", "most"),
    [
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.bfloat16, 2**-8),
        (torch.bfloat16, torch.float32, 2**-8),
        (torch.float16, torch.float16, 2**-10),
    ],
)
def test_the_kernel_builds_the_product(
    shape: tuple[int, int, int],
    shift: float,
    lies: str,
    base: torch.dtype,
    factors: torch.dtype,
    most: float,
) -> None:
    out, into, rank = shape
    drawn = torch.randn(into, out).t() if lies == "by columns" else torch.randn(out, into)
    W = drawn.to("cuda", base)
    if lies == "within another":
        W = torch.randn(out + 2, into + 3, device="cuda").to(base)[1:-1, 2:-1]
    A = torch.randn(rank, into, device="cuda").to(factors)
    B = torch.randn(out, rank, device="cuda").to(factors)
    with torch.no_grad():
        found = fused.hadamard(W, A, B, base, shift)
    assert found is not None
    assert found.dtype == base
    assert found.shape == W.shape
    expected = W.double() * (shift + B.double() @ A.double())
    # The sum of a tile's products may cancel; its terms bound what float32 loses.
    terms = W.double().abs() * (shift + B.double().abs() @ A.double().abs())
    # The least float16 that is not 0 is 6e-8.
    assert ((found.double() - expected).abs() <= most * expected.abs() + 1e-6 * terms + 6e-8).all()


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fused._launcher.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    yield
    fused._launcher.cache_clear()


def factors() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(shape, device="cuda") for shape in ((96, 80), (8, 80), (96, 8)))


@torch.no_grad()
def test_the_plain_path_gives_the_same_where_triton_is_missing(
    request: pytest.FixtureRequest,
) -> None:
    W, A, B = factors()
    in_one_pass = fused.hadamard(W, A, B, torch.float32, 0.0)
    request.getfixturevalue("without_triton")
    assert fused.hadamard(W, A, B, torch.float32, 0.0) is None
    plain = hadamard_product(W, A, B, torch.float32)
    torch.testing.assert_close(in_one_pass, plain, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_compiler_that_fails_is_told_once_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For the types that it fails for: others compile."""
    from gatera.adapter.kernels.fused_kernel import launch

    def broken(W: Tensor, *others: Any) -> None:
        if W.dtype == torch.bfloat16:
            raise RuntimeError("no such instruction\nhere")
        launch(W, *others)

    W, A, B = factors()
    narrow = [t.bfloat16() for t in (W, A, B)]
    fused._launcher.cache_clear()
    monkeypatch.setattr("gatera.adapter.kernels.fused_kernel.launch", broken)
    with caplog.at_level(logging.WARNING):
        found = [hadamard_product(*narrow, torch.bfloat16) for _ in range(3)]
        assert fused.hadamard(W, A, B, torch.float32, 0.0) is not None
    fused._launcher.cache_clear()
    expected = narrow[0] * (narrow[2] @ narrow[1])
    torch.testing.assert_close(found[0], expected)
    assert [record.getMessage().count("no such instruction") for record in caplog.records] == [1]


@torch.no_grad()
def test_a_traced_graph_holds_the_separate_operations() -> None:
    W, A, B = factors()
    traced = torch.jit.trace(lambda W, A, B: hadamard_product(W, A, B, torch.float32), (W, A, B))
    other = torch.randn_like(W)
    torch.testing.assert_close(traced(other, A, B), other * (B @ A), rtol=1e-5, atol=1e-5)


def test_small_weights_take_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    W, A, B = factors()
    with torch.no_grad():
        monkeypatch.setattr(fused, "_LEAST_ELEMENTS", W.numel() + 1)
        assert fused.hadamard(W, A, B, torch.float32, 0.0) is None
        assert fused.hadamard(W.bfloat16(), A, B, torch.bfloat16, 0.0) is not None


def test_what_the_kernel_cannot_do_takes_the_plain_path() -> None:
    W, A, B = factors()
    with torch.no_grad():
        assert fused.hadamard(W.double(), A.double(), B.double(), torch.float64, 0.0) is None
        assert fused.hadamard(W.cpu(), A.cpu(), B.cpu(), torch.float32, 0.0) is None
        assert fused.hadamard(W, A.bfloat16(), B, torch.float32, 0.0) is None
        assert fused.hadamard(W, A.t().contiguous().t(), B, torch.float32, 0.0) is None
        wide_A, wide_B = A.repeat(20, 1), B.repeat(1, 20)
        assert fused.hadamard(W, wide_A, wide_B, torch.float32, 0.0) is None
        torch.testing.assert_close(
            hadamard_product(W, wide_A, wide_B, torch.float32), W * (wide_B @ wide_A)
        )
    B.requires_grad_()
    hadamard_product(W, A, B, torch.float32).sum().backward()
    assert B.grad is not None
