"""Every gate on every update, with every sharing: the equation, and what PEFT users rely on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_reference import dora_gradients, layer_output
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gatera import GateraConfig, record_gates
from gatera.adapter.finding import adapted_layers
from gatera.adapter.layer import GateraLayer

GATES = ("token", "static", "none", "mlp", "attention", "channel")
DELTAS = ("hira", "lora", "dora", "mora", "hilora")
SHARINGS = ("module", "block", "model")
GRID = [
    (gate, delta, sharing)
    for gate in GATES
    for delta in DELTAS
    for sharing in SHARINGS
    if not (gate == "channel" and sharing != "module")
    if not (gate == "none" and sharing != "module")
]
BATCH, TOKENS, WIDTH, WIDER = 2, 3, 5, 7
TARGETS = ["q_proj", "up_proj", "down_proj"]

grid = pytest.mark.parametrize(("gate", "delta", "sharing"), GRID)


class Block(nn.Module):
    """A block of two layers that adds to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDER)
        self.down = nn.Linear(WIDER, WIDTH)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.down(torch.tanh(self.up(hidden_states)))


class Stack(nn.Module):
    """Two blocks, called as a transformer is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def settings(gate: str, delta: str, sharing: str, **others: Any) -> GateraConfig:
    fields = {"r": 2, "gate_init_std": 0.7, "gate_bias": 0.3, "gate_hidden": 3, **others}
    return GateraConfig(gate=gate, delta=delta, gate_sharing=sharing, **fields)


def adapted(gate: str, delta: str, sharing: str, **others: Any) -> PeftModel:
    torch.manual_seed(5)
    fields = {"init_weights": False, "target_modules": ["up", "down"], **others}
    return get_peft_model(Stack().double(), settings(gate, delta, sharing, **fields)).double()


def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(BATCH, TOKENS, WIDTH, dtype=torch.float64, generator=generator)


@pytest.fixture
def captured() -> Iterator[Callable[[nn.Module], dict[str, tuple[Tensor, Tensor]]]]:
    """Notes what goes into and comes out of every module of a model."""
    handles = []

    def listen(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name, module in model.named_modules():

            def note(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if args and isinstance(output, Tensor):
                    seen[name] = (args[0].detach(), output.detach())

            handles.append(module.register_forward_hook(note))
        return seen

    yield listen
    for handle in handles:
        handle.remove()


def terms_of(
    model: PeftModel,
    name: str,
    seen: dict[str, tuple[Tensor, Tensor]],
    mask: Tensor,
    sharing: str,
) -> dict[str, Any]:
    """What the equation needs of the adapted layer `name`: its inputs and its parameters."""
    layers = dict(adapted_layers(model))
    layer = layers[name]
    block = name.rpartition(".")[0]
    owner = {"module": name, "block": f"{block}.up", "model": "layers.0.up"}[sharing]
    gate_module: Any = nn.Module()
    if layer.gate["default"] != "none":
        gate_module = layers[owner].gatera_gate["default"]
    prefix = len("gatera_")
    update = {
        held[prefix:]: getattr(layer, held)["default"].detach().numpy()
        for held in layer.adapter_layer_names
        if held != "gatera_gate" and "default" in getattr(layer, held)
    }
    gate_inputs = seen[f"base_model.model.{name if sharing == 'module' else block}"][0]
    return {
        "gate": layer.gate["default"],
        "xs": seen[f"base_model.model.{name}"][0].numpy(),
        "gate_inputs": gate_inputs.numpy(),
        "real": mask.bool().tolist(),
        "W": layer.base_layer.weight.detach().numpy(),
        "update": update,
        "gate_parameters": {n: p.detach().numpy() for n, p in gate_module.named_parameters()},
        "scaling": layer.scaling["default"],
    }


def check_outputs(
    model: PeftModel,
    seen: dict[str, tuple[Tensor, Tensor]],
    mask: Tensor,
    sharing: str,
    **how: Any,
) -> None:
    """Compare every adapted layer's output with what the equation gives."""
    for name, layer in adapted_layers(model):
        expected = layer_output(
            delta=layer.delta["default"],
            bias=layer.base_layer.bias.detach().numpy(),
            **terms_of(model, name, seen, mask, sharing),
            **how,
        )
        actual = seen[f"base_model.model.{name}"][1].numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@grid
@pytest.mark.parametrize("training", [True, False])
def test_the_output_is_that_of_the_equation(
    gate: str, delta: str, sharing: str, training: bool, captured: Any
) -> None:
    model = adapted(gate, delta, sharing, gate_temperature=0.7).train(training)
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    seen = captured(model)
    with torch.set_grad_enabled(training):
        model(inputs(), attention_mask=mask)
    check_outputs(model, seen, mask, sharing, temperature=0.7)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("training", [True, False])
def test_moras_sharing_form_is_that_of_its_equation(
    gate: str, training: bool, captured: Any
) -> None:
    model = adapted(gate, "mora", "module", mora_type="share").train(training)
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    seen = captured(model)
    with torch.set_grad_enabled(training):
        model(inputs(), attention_mask=mask)
    check_outputs(model, seen, mask, "module", mora="share")


@grid
def test_single_precision_agrees_with_double(gate: str, delta: str, sharing: str) -> None:
    model = adapted(gate, delta, sharing)
    expected = model(inputs())
    torch.testing.assert_close(
        model.float()(inputs().float()).double(), expected, rtol=1e-4, atol=1e-5
    )


@grid
def test_the_gradients_are_those_of_the_output(gate: str, delta: str, sharing: str) -> None:
    model = adapted(gate, delta, sharing)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    names, values = list(trained), list(trained.values())
    # DoRA's norm is a constant to the gradient, by its definition: A and B are compared below.
    if delta == "dora":
        exact = [("magnitude" in n or "gatera_gate" in n) for n in names]
        names = [n for n, keep in zip(names, exact, strict=True) if keep]
        values = [v for v, keep in zip(values, exact, strict=True) if keep]

    def output(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    x = inputs().requires_grad_()
    assert torch.autograd.gradcheck(output, (x, *values), fast_mode=True)


@pytest.mark.parametrize(
    ("gate", "sharing"), [(gate, sharing) for gate, delta, sharing in GRID if delta == "dora"]
)
def test_the_gradients_of_doras_factors_take_its_norm_for_a_constant(
    gate: str, sharing: str, captured: Any
) -> None:
    model = adapted(gate, "dora", sharing, alpha=3)
    d_ys: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model):
        layer.register_full_backward_hook(
            lambda _, d_x, d_y, name=name: d_ys.__setitem__(name, d_y[0])
        )
    seen, mask = captured(model), torch.ones(BATCH, TOKENS)
    model(inputs()).square().sum().backward()
    for name, layer in adapted_layers(model):
        terms = terms_of(model, name, seen, mask, sharing)
        expected = dora_gradients(d_ys=d_ys[name].numpy(), **terms)
        for factor in ("A", "B"):
            actual = getattr(layer, f"gatera_{factor}")["default"].grad.numpy()
            np.testing.assert_allclose(actual, expected[factor], rtol=1e-10, atol=1e-12)


@grid
def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(
    gate: str, delta: str, sharing: str
) -> None:
    torch.manual_seed(5)
    base = Stack()
    expected = base(inputs().float())
    config = settings(gate, delta, sharing, target_modules=["up", "down"])
    model = get_peft_model(copy.deepcopy(base), config)
    torch.testing.assert_close(model(inputs().float()), expected, rtol=0, atol=0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("gatera_" in name for name in trained)
    model(inputs().float()).square().sum().backward()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@grid
def test_saving_and_loading_gives_the_same_outputs(
    gate: str, delta: str, sharing: str, tmp_path: Path
) -> None:
    model = adapted(gate, delta, sharing).eval()
    expected = model(inputs())
    model.save_pretrained(tmp_path)
    torch.manual_seed(5)
    loaded = PeftModel.from_pretrained(Stack().double(), tmp_path, adapter_name="other").double()
    torch.testing.assert_close(loaded.eval()(inputs()), expected, rtol=0, atol=0)
    meta = PeftModel.from_pretrained(_same_stack(), tmp_path, low_cpu_mem_usage=True).double()
    torch.testing.assert_close(meta.eval()(inputs()), expected, rtol=0, atol=0)


def _same_stack() -> nn.Module:
    torch.manual_seed(5)
    return Stack().double()


@grid
def test_copies_disabling_and_unloading(gate: str, delta: str, sharing: str) -> None:
    model = adapted(gate, delta, sharing).eval()
    expected = model(inputs())
    torch.testing.assert_close(copy.deepcopy(model)(inputs()), expected, rtol=0, atol=0)
    base = _same_stack()(inputs())
    with model.disable_adapter():
        torch.testing.assert_close(model(inputs()), base, rtol=0, atol=0)
    torch.testing.assert_close(model(inputs()), expected, rtol=0, atol=0)
    unloaded = model.unload()
    torch.testing.assert_close(unloaded(inputs()), base, rtol=0, atol=0)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in unloaded.modules())
    assert not any(isinstance(m, GateraLayer) for m in unloaded.modules())


@grid
def test_two_adapters_act_together_and_are_deleted(gate: str, delta: str, sharing: str) -> None:
    model = adapted(gate, delta, sharing).eval()
    first = model(inputs())
    torch.manual_seed(8)
    config = settings("token", "lora", "block", init_weights=False, target_modules=["up", "down"])
    model.add_adapter("second", config)
    model = model.double()
    model.set_adapter("second")
    second = model(inputs())
    model.base_model.set_adapter(["default", "second"])
    both = model(inputs())
    assert not torch.allclose(both, first)
    assert not torch.allclose(both, second)
    model.delete_adapter("second")
    model.set_adapter("default")
    torch.testing.assert_close(model(inputs()), first, rtol=0, atol=0)
    assert not any("second" in name for name, _ in model.named_parameters())


@grid
def test_merging_is_exact_or_refused(gate: str, delta: str, sharing: str) -> None:
    model = adapted(gate, delta, sharing).eval()
    expected = model(inputs())
    before = {name: p.clone() for name, p in model.named_parameters()}
    if gate not in ("static", "none"):
        with pytest.raises(ValueError, match="depends on the input"):
            model.merge_adapter()
    else:
        model.merge_adapter()
        torch.testing.assert_close(model(inputs()), expected, rtol=1e-10, atol=1e-12)
        model.merge_adapter()
        model.unmerge_adapter()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name


# In a language model


def language_model(
    llama: Callable[[], LlamaForCausalLM], gate: str, delta: str, sharing: str, **others: Any
) -> PeftModel:
    torch.manual_seed(7)
    fields = {"init_weights": False, "target_modules": TARGETS, **others}
    return get_peft_model(llama(), settings(gate, delta, sharing, **fields)).eval()


@grid
def test_generating_with_a_cache_equals_without(
    gate: str, delta: str, sharing: str, llama: Callable[[], LlamaForCausalLM]
) -> None:
    model = language_model(llama, gate, delta, sharing)
    prompt = torch.tensor([[0, 0, 5, 9], [4, 8, 3, 6]])
    mask = (prompt != 0).long()
    how = {"max_new_tokens": 6, "do_sample": False, "output_logits": True}
    how |= {"return_dict_in_generate": True, "eos_token_id": None}
    cached = model.generate(input_ids=prompt, attention_mask=mask, use_cache=True, **how)
    whole = model.generate(input_ids=prompt, attention_mask=mask, use_cache=False, **how)
    assert torch.equal(cached.sequences, whole.sequences)
    for one, other in zip(cached.logits, whole.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@grid
def test_left_padding_equals_right_padding_on_real_tokens(
    gate: str, delta: str, sharing: str, llama: Callable[[], LlamaForCausalLM]
) -> None:
    model = language_model(llama, gate, delta, sharing)
    tokens = [5, 9, 4, 7]
    positions = torch.arange(4)
    left = torch.tensor([[0, 0, *tokens], [3, 6, *tokens]])
    right = torch.tensor([[*tokens, 0, 0], [3, 6, *tokens]])
    statistics, outputs = [], []
    for ids in (left, right):
        mask = (ids != 0).long()
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad(), record_gates(model) as gates:
            logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits
        outputs.append(logits[0][mask[0].bool()])
        statistics.append(gates.statistics())
    assert len(outputs[0]) == len(positions)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
    assert statistics[0].keys() == statistics[1].keys()
    for name, values in statistics[0].items():
        for key, value in values.items():
            assert value == pytest.approx(statistics[1][name][key], abs=1e-4)


@grid
def test_gradient_checkpointing_gives_the_same_gradients(
    gate: str, delta: str, sharing: str, llama: Callable[[], LlamaForCausalLM]
) -> None:
    ids = torch.tensor([[0, 0, 5, 9], [4, 8, 3, 6]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids}
    gradients = []
    for checkpointing in (False, True):
        model = language_model(llama, gate, delta, sharing).train()
        if checkpointing:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
            model.enable_input_require_grads()
        with record_gates(model) as gates:
            loss = model(**batch).loss + 0.1 * gates.entropy()
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("gate", "delta", "sharing"),
    [
        ("token", "dora", "module"),
        ("mlp", "hira", "block"),
        ("attention", "mora", "module"),
        ("channel", "hilora", "module"),
    ],
)
def test_compiling_changes_nothing(gate: str, delta: str, sharing: str) -> None:
    model = adapted(gate, delta, sharing)
    x = inputs().requires_grad_()
    expected = model(x)
    expected.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")(inputs().requires_grad_())
    compiled.square().sum().backward()
    torch.testing.assert_close(compiled, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)


@pytest.mark.parametrize("sharing", ["block", "model"])
def test_mixed_batches_share_the_gates_of_their_own_rows(
    sharing: str, llama: Callable[[], LlamaForCausalLM]
) -> None:
    model = language_model(llama, "token", "hira", sharing)
    other = settings("mlp", "lora", sharing, init_weights=False, target_modules=TARGETS)
    model.add_adapter("other", other)
    ids = torch.tensor([[4, 8, 3, 6], [5, 9, 4, 7], [7, 3, 9, 5]])
    names = ["other", "__base__", "default"]
    with torch.no_grad():
        mixed = model(input_ids=ids, adapter_names=names).logits
        for row, name in enumerate(names):
            if name == "__base__":
                with model.disable_adapter():
                    alone = model(input_ids=ids[row : row + 1]).logits
            else:
                model.set_adapter(name)
                alone = model(input_ids=ids[row : row + 1]).logits
            torch.testing.assert_close(mixed[row : row + 1], alone, rtol=1e-4, atol=1e-5)
