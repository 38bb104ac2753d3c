"""Reading the gates: entropy, statistics, padding, checkpointing, generation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gatera import GateraConfig, GateStatistics, record_gates
from gatera.adapter.kernels.functional import binary_entropy
from gatera.errors import InputError

MakeLlama = Callable[[], LlamaForCausalLM]
TARGETS = ["q_proj", "up_proj"]
MODULES = [f"model.layers.{i}.{m}" for i in (0, 1) for m in ("self_attn.q_proj", "mlp.up_proj")]


def adapted(base: nn.Module, **fields: Any) -> PeftModel:
    fields = {"r": 3, "gate_init_std": 0.6, "target_modules": TARGETS, **fields}
    torch.manual_seed(1)
    return get_peft_model(base, GateraConfig(init_weights=False, **fields)).eval()


def batch(pad_left: int = 0, pad_right: int = 0) -> dict[str, Tensor]:
    """Two sequences of 5 tokens, the first padded by that many further tokens."""
    generator = torch.Generator().manual_seed(4)
    width = 5 + pad_left + pad_right
    ids = torch.zeros(2, width, dtype=torch.long)
    mask = torch.zeros(2, width, dtype=torch.long)
    ids[:, pad_left : pad_left + 5] = torch.randint(3, 61, (2, 5), generator=generator)
    mask[:, pad_left : pad_left + 5] = 1
    return {"input_ids": ids, "attention_mask": mask}


def gates_of_every_module(model: PeftModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """g of each token, (batch, tokens), computed from the input that each layer sees."""
    gates: dict[str, Tensor] = {}
    handles = []
    for name, module in model.get_base_model().named_modules():
        if name in MODULES:
            gate = module.gatera_gate["default"]

            def hook(_: nn.Module, args: tuple[Tensor], name: str = name, gate: Any = gate) -> None:
                gates[name] = torch.sigmoid(args[0] @ gate.weight[0] + gate.bias)

            handles.append(module.register_forward_pre_hook(hook))
    model(**inputs)
    for handle in handles:
        handle.remove()
    return gates


def entropy_of(gates: list[float]) -> float:
    terms = [p * math.log(p) for g in gates for p in (g, 1 - g) if p > 0]
    return -sum(terms) / len(gates)


def test_entropy_is_the_mean_over_tokens_then_over_modules(llama: MakeLlama) -> None:
    model, inputs = adapted(llama()), batch()
    expected = [
        entropy_of(g.flatten().tolist()) for g in gates_of_every_module(model, inputs).values()
    ]
    with record_gates(model) as gates:
        model(**inputs)
    assert len(expected) == 4
    assert gates.entropy().shape == ()
    assert gates.entropy().item() == pytest.approx(sum(expected) / 4, rel=1e-5)


@pytest.mark.parametrize("padding", [{"pad_left": 3}, {"pad_right": 2}])
def test_padding_changes_neither_entropy_nor_statistics(
    llama: MakeLlama, padding: dict[str, int]
) -> None:
    model = adapted(llama())
    entropies, statistics = [], []
    for inputs in (batch(), batch(**padding)):
        with record_gates(model) as gates:
            model(**inputs)
        entropies.append(gates.entropy().item())
        statistics.append(gates.statistics())
    assert entropies[1] == pytest.approx(entropies[0], rel=1e-5)
    for name, values in statistics[0].items():
        assert statistics[1][name] == pytest.approx(values, rel=1e-4)
    with record_gates(model, attention_mask=torch.ones(2, 5 + sum(padding.values()))) as gates:
        model(**batch(**padding))
    assert gates.entropy().item() != pytest.approx(entropies[0], rel=1e-5)


def test_sequences_of_different_length_count_token_by_token(llama: MakeLlama) -> None:
    model, inputs = adapted(llama()), batch()
    inputs["attention_mask"][0, :3] = 0
    kept = inputs["attention_mask"].bool()
    expected = [entropy_of(g[kept].tolist()) for g in gates_of_every_module(model, inputs).values()]
    with record_gates(model) as gates:
        model(inputs["input_ids"], inputs["attention_mask"])  # by position
    assert gates.entropy().item() == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_statistics_are_those_of_the_gates(llama: MakeLlama) -> None:
    model, inputs = adapted(llama(), gate_init_std=1.5), batch(pad_left=2)
    real = inputs["attention_mask"].bool()
    expected = {}
    for name, values in gates_of_every_module(model, inputs).items():
        kept = values[real].tolist()
        expected[name] = {
            "mean": sum(kept) / len(kept),
            "share_below_0.1": sum(g < 0.1 for g in kept) / len(kept),
            "share_above_0.9": sum(g > 0.9 for g in kept) / len(kept),
            "entropy": entropy_of(kept),
        }
    with record_gates(model) as gates:
        model(**inputs)
    actual = gates.statistics()
    assert list(actual) == MODULES
    assert {k for values in actual.values() for k in values} == set(expected[MODULES[0]])
    assert any(values["share_below_0.1"] > 0 for values in actual.values())
    assert any(values["share_above_0.9"] > 0 for values in actual.values())
    for name in MODULES:
        assert actual[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6)
    overall = gates.overall()
    for statistic in overall:
        mean = sum(values[statistic] for values in expected.values()) / 4
        assert overall[statistic] == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_statistics_of_chosen_tokens_and_over_batches(llama: MakeLlama) -> None:
    model = adapted(llama())
    prompt, answer = GateStatistics(), GateStatistics()
    kept: dict[str, list[float]] = {name: [] for name in MODULES}
    for inputs in (batch(), batch(pad_left=2)):
        answers = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        answers[:, -2:] = True
        with record_gates(model) as gates:
            model(**inputs)
        gates.add_to(prompt, tokens=~answers)
        gates.add_to(answer, tokens=answers)
        for name, values in gates_of_every_module(model, inputs).items():
            kept[name] += values[answers].tolist()
    actual = answer.modules()
    for name in MODULES:
        assert len(kept[name]) == 8
        assert actual[name]["mean"] == pytest.approx(sum(kept[name]) / 8, rel=1e-5)
        assert actual[name]["entropy"] == pytest.approx(entropy_of(kept[name]), rel=1e-4)
    assert prompt.overall()["mean"] != pytest.approx(answer.overall()["mean"], rel=1e-4)
    last = gates.statistics(tokens=answers)
    values = gates_of_every_module(model, inputs)[MODULES[1]][answers]
    assert last[MODULES[1]]["mean"] == pytest.approx(values.mean().item(), rel=1e-5)
    assert gates.statistics(tokens=torch.zeros_like(answers)) == {}


def test_several_passes_add_up_in_statistics_and_the_last_gives_the_entropy(
    llama: MakeLlama,
) -> None:
    model = adapted(llama())
    first, second = batch(), batch(pad_left=3)
    second["input_ids"] = second["input_ids"].flip(0)
    second["attention_mask"][0, :5] = 0  # 3 real tokens in the first row, of 5
    with record_gates(model) as gates:
        model(**first)
        model(**second)
    with record_gates(model) as alone:
        model(**second)
    assert gates.entropy().item() == alone.entropy().item()
    sums = torch.zeros(4)
    for inputs, count in ((first, 10), (second, 8)):
        with record_gates(model) as one:
            model(**inputs)
        sums += count * torch.tensor([v["mean"] for v in one.statistics().values()])
    actual = torch.tensor([v["mean"] for v in gates.statistics().values()])
    torch.testing.assert_close(actual, sums / 18, rtol=1e-5, atol=1e-6)


def test_the_entropy_trains_the_gates_and_nothing_else_here(llama: MakeLlama) -> None:
    model, inputs = adapted(llama(), layers_to_transform=[0], target_modules=["q_proj"]), batch()
    with record_gates(model) as gates:
        model(**inputs)
    gates.entropy().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.gatera_gate.default"
    assert trained == {f"{prefix}.weight", f"{prefix}.bias"}
    gate = model.get_base_model().model.layers[0].self_attn.q_proj.gatera_gate["default"]
    seen: list[Tensor] = []
    handle = gate.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**inputs)
    handle.remove()
    w, b = (
        gate.weight.detach().clone().requires_grad_(),
        gate.bias.detach().clone().requires_grad_(),
    )
    binary_entropy(seen[0].detach() @ w.t() + b).mean().backward()
    torch.testing.assert_close(gate.weight.grad, w.grad)
    torch.testing.assert_close(gate.bias.grad, b.grad)


def test_a_gate_that_is_closed_in_training_learns_from_the_entropy_alone() -> None:
    fields = {"gate_bias": -3.0, "gate_threshold": 0.9, "gate_threshold_in_training": True}
    model = adapted(nn.Sequential(nn.Linear(7, 5)), target_modules=["0"], **fields).train()
    gate, x = model.get_base_model()[0].gatera_gate["default"], torch.randn(2, 3, 7)
    with record_gates(model) as gates:
        y = model(x)
    assert gates.overall()["share_skipped"] == 1.0
    y.square().sum().backward(retain_graph=True)
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    gates.entropy().backward()
    w = gate.weight.detach().clone().requires_grad_()
    binary_entropy(x @ w.t() + gate.bias.detach()).mean().backward()
    assert w.grad.any()
    torch.testing.assert_close(gate.weight.grad, w.grad)


@pytest.mark.parametrize(("bias", "expected"), [(0.0, math.log(2)), (80.0, 0.0), (-80.0, 0.0)])
@pytest.mark.parametrize("gate", ["token", "static"])
def test_entropy_is_log_2_at_one_half_and_0_at_the_ends(
    llama: MakeLlama, gate: str, bias: float, expected: float
) -> None:
    model = adapted(llama(), gate=gate, gate_init_std=0.0, gate_bias=bias)
    with record_gates(model) as gates:
        model(**batch(pad_left=1))
    assert gates.entropy().item() == pytest.approx(expected, abs=1e-6)
    mean = 1 / (1 + math.exp(-bias))
    assert gates.overall()["mean"] == pytest.approx(mean, abs=1e-6)


def test_static_gates_weigh_as_much_as_token_gates(llama: MakeLlama) -> None:
    """Module by module: two token gates and one static gate are three gated modules."""
    model = adapted(llama(), target_modules=["q_proj"])
    model.add_adapter(
        "s",
        GateraConfig(gate="static", gate_bias=1.7, target_modules=["model.layers.0.mlp.up_proj"]),
    )
    model.base_model.set_adapter(["default", "s"])
    with record_gates(model) as gates:
        model(**batch())
    values = gates.statistics()
    assert len(values) == 3
    g = 1 / (1 + math.exp(-1.7))
    assert values["model.layers.0.mlp.up_proj"] == pytest.approx(
        {"mean": g, "share_below_0.1": 0, "share_above_0.9": 0, "entropy": entropy_of([g])},
        rel=1e-5,
    )
    mean = sum(v["entropy"] for v in values.values()) / 3
    assert gates.entropy().item() == pytest.approx(mean, rel=1e-5)


def test_nothing_gated_has_entropy_zero(llama: MakeLlama) -> None:
    for model in (adapted(llama(), gate="none"), llama()):
        with record_gates(model) as gates:
            loss = model(**batch()).logits.sum()
        assert gates.entropy().item() == 0.0
        assert torch.equal(loss + 0.01 * gates.entropy(), loss)
        assert gates.statistics() == {}
        assert gates.overall() == {}


def test_disabled_adapters_have_no_gates(llama: MakeLlama) -> None:
    model = adapted(llama())
    with record_gates(model) as gates, model.disable_adapter():
        model(**batch())
    assert gates.entropy().item() == 0.0
    assert gates.statistics() == {}


def test_misuse_is_refused(llama: MakeLlama) -> None:
    model = adapted(llama())
    with record_gates(model) as gates:
        with pytest.raises(InputError, match="no forward pass was recorded"):
            gates.entropy()
        with pytest.raises(InputError, match="cannot be nested"), record_gates(model):
            pass
    with record_gates(model, attention_mask=torch.ones(2, 4)) as gates:
        model(**batch())
    message = r"attention_mask covers tokens \(2, 4\), the recorded gates cover \(2, 5\)"
    with pytest.raises(InputError, match=message):
        gates.entropy()
    with pytest.raises(InputError, match=message):
        gates.statistics()


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **sizes))


@pytest.mark.parametrize("labels", [3, 5])  # fewer tokens than the encoder's, and as many
def test_an_encoder_decoder_needs_the_mask_of_the_sequence_that_its_adapters_see(
    labels: int,
) -> None:
    inputs = batch()
    inputs["input_ids"] %= 31
    inputs["attention_mask"][0, 3:] = 0
    ids = inputs["input_ids"][:, :labels].contiguous()
    real = torch.ones(2, labels)
    real[1, 2:] = 0
    both = adapted(t5(), target_modules=["q", "v"])
    message = (
        r"is an encoder-decoder, .* the same one .*target_modules=r'encoder.* record_gates\(model"
    )
    with pytest.raises(InputError, match=message), record_gates(both):
        both(**inputs, labels=ids)
    decoder = adapted(t5(), target_modules=r"decoder\..*SelfAttention\.(q|v)")
    with pytest.raises(InputError, match=message), record_gates(decoder):
        decoder(**inputs, labels=ids)
    with record_gates(decoder, attention_mask=real) as gates:
        decoder(**inputs, labels=ids)
    assert gates.statistics() == gates.statistics(tokens=real)
    assert gates.statistics() != gates.statistics(tokens=real * torch.tensor([[1], [0]]))
    with record_gates(both, attention_mask=real) as gates:
        both(**inputs, labels=ids)
    if labels == 3:
        with pytest.raises(InputError, match=message):
            gates.statistics()
    encoder = adapted(t5(), target_modules=r"encoder\..*\.(q|v)")
    with record_gates(encoder) as gates:
        encoder(**inputs, labels=ids)
    assert gates.statistics() == gates.statistics(tokens=inputs["attention_mask"])
    with record_gates(both) as gates:
        both(input_ids=inputs["input_ids"], labels=ids)
    assert len(gates.statistics()) == 6
    static = adapted(t5(), gate="static", target_modules=["q", "v"])
    with record_gates(static) as gates:
        static(**inputs, labels=ids)
    assert len(gates.statistics()) == 6


def test_an_encoder_that_generate_runs_by_itself_has_the_mask_that_was_given() -> None:
    inputs = batch(pad_right=2)
    inputs["input_ids"] %= 31
    model = adapted(t5(), target_modules=r"encoder\..*\.(q|v)")
    with record_gates(model) as whole:
        model(**inputs, labels=inputs["input_ids"])
    with record_gates(model, attention_mask=inputs["attention_mask"]) as gates:
        model.generate(**inputs, max_new_tokens=3)
    for name, values in whole.statistics().items():
        assert gates.statistics()[name] == pytest.approx(values, rel=1e-5)


def test_nothing_is_left_on_the_model(llama: MakeLlama) -> None:
    model = adapted(llama())
    hooks = len(model.get_base_model()._forward_pre_hooks)
    copies = []

    def copy_and_fail() -> None:
        with record_gates(model):
            model(**batch())
            copies.append(copy.deepcopy(model))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        copy_and_fail()
    assert len(model.get_base_model()._forward_pre_hooks) == hooks
    assert all("recorder" not in module.__dict__ for module in model.modules())
    assert torch.equal(copies[0](**batch()).logits, model(**batch()).logits)
    copy.deepcopy(model)


def test_recording_changes_neither_output_nor_gradient(llama: MakeLlama) -> None:
    model, inputs = adapted(llama()), batch()
    expected = model(**inputs).logits
    expected.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with record_gates(model):
        actual = model(**inputs).logits
    actual.square().sum().backward()
    assert torch.equal(actual, expected)
    assert all(torch.equal(dict(model.named_parameters())[n].grad, g) for n, g in gradients.items())


@pytest.mark.parametrize("gate", ["token", "static"])
def test_gradient_checkpointing_keeps_the_gradients(llama: MakeLlama, gate: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted(llama(), gate=gate).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        with record_gates(model) as gates:
            loss = model(**batch(pad_left=2), labels=batch(pad_left=2)["input_ids"]).loss
            (loss + gates.entropy()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        assert gates.overall()["mean"] > 0
    assert len(gradients[0]) == (16 if gate == "token" else 12)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_reentrant_checkpointing_is_refused_while_recording(llama: MakeLlama) -> None:
    model = adapted(llama()).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with (
        pytest.raises(InputError, match="use_reentrant=True does; the entropy would have no"),
        record_gates(model),
    ):
        model(**batch())
    with record_gates(model) as gates, torch.no_grad():
        model(**batch())
    assert gates.entropy().item() > 0


def test_generation_counts_every_fed_token_once(llama: MakeLlama) -> None:
    model = adapted(llama())
    prompt = batch(pad_left=2)
    with record_gates(model) as gates:
        generated = model.generate(**prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    real = torch.ones_like(generated)
    real[:, : prompt["input_ids"].shape[1]] = prompt["attention_mask"]
    fed = {"input_ids": generated[:, :-1], "attention_mask": real[:, :-1]}  # the last is not fed
    with record_gates(model) as whole:
        model(**fed)
    for name, values in whole.statistics().items():
        assert gates.statistics()[name] == pytest.approx(values, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("padded_with_end", [False, True])
def test_padding_that_finished_rows_are_fed_is_not_counted(
    llama: MakeLlama, padded_with_end: bool
) -> None:
    base = llama()
    model = adapted(base)
    prompt = batch()
    ids = model.generate(**prompt, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    end = int(ids[0, 6])  # the first row ends at its 2nd token
    assert end not in ids[1]
    base.generation_config.eos_token_id = end
    if padded_with_end:  # where a model has no padding token, generate takes the end token
        base.generation_config.eos_token_id = [end]
        base.generation_config.pad_token_id = None
    with record_gates(model) as gates:
        ended = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert (ended[0, 7:] == (end if padded_with_end else 0)).all()
    real = torch.ones_like(ended)
    real[0, 6 if padded_with_end else 7 :] = 0
    with record_gates(model) as whole:
        model(input_ids=ended[:, :-1], attention_mask=real[:, :-1])
    for name, values in whole.statistics().items():
        assert gates.statistics()[name] == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_decoding_from_embeddings_reads_the_end_of_the_mask(llama: MakeLlama) -> None:
    model, inputs = adapted(llama()), batch(pad_left=2)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    first = model(inputs_embeds=embeddings[:, :5], attention_mask=inputs["attention_mask"][:, :5])
    inputs["attention_mask"][1, 6] = 0
    with record_gates(model) as gates:
        model(
            inputs_embeds=embeddings[:, 5:],
            attention_mask=inputs["attention_mask"],
            past_key_values=first.past_key_values,
        )
    tokens = torch.tensor([[1, 1], [1, 0]])
    assert gates.statistics() == gates.statistics(tokens=tokens)
    assert gates.statistics() != gates.statistics(tokens=torch.tensor([[1, 1], [0, 0]]))


def test_four_dimensional_masks_tell_real_tokens_by_their_diagonal(llama: MakeLlama) -> None:
    model, inputs = adapted(llama()), batch(pad_left=2)
    with record_gates(model) as gates:
        model(**inputs)
    expected = gates.entropy().item()
    keys = inputs["attention_mask"].bool()[:, None, None, :]
    allowed = keys & torch.ones(7, 7, dtype=torch.bool).tril()
    additive = torch.zeros(2, 1, 7, 7).masked_fill(~allowed, torch.finfo(torch.float32).min)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    for mask in (allowed, additive):
        with record_gates(model) as gates:
            model(input_ids=inputs["input_ids"], attention_mask=mask, position_ids=positions)
        assert gates.entropy().item() == pytest.approx(expected, rel=1e-4)


def test_mixed_batches_record_the_rows_of_each_adapter(llama: MakeLlama) -> None:
    model, inputs = adapted(llama()), batch(pad_left=2)
    inputs["attention_mask"][1, :4] = 0
    model.add_adapter("b", GateraConfig(r=2, gate_bias=1.0, target_modules=TARGETS))
    means = []
    for row, name in enumerate(["b", "default"]):
        model.set_adapter(name)
        with record_gates(model) as gates:
            model(**{key: value[row : row + 1] for key, value in inputs.items()})
        means.append(gates.entropy().item())
    with record_gates(model) as gates:
        model(**inputs, adapter_names=["b", "default"])
    assert gates.entropy().item() == pytest.approx(sum(means) / 2, rel=1e-4)


def test_networks_without_tokens_or_mask_count_every_row() -> None:
    net = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    model = get_peft_model(net, GateraConfig(r=2, target_modules=["0"], gate_init_std=1.0))
    x = torch.randn(6, 7)
    with record_gates(model) as gates:
        model(x)
    gate = net[0].gatera_gate["default"]
    expected = torch.sigmoid(x @ gate.weight[0] + gate.bias)
    assert gates.statistics()["0"]["mean"] == pytest.approx(expected.mean().item(), rel=1e-5)


def test_recording_compiles_without_graph_breaks() -> None:
    net = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    model = get_peft_model(net, GateraConfig(r=2, target_modules=["0", "2"], init_weights=False))
    x = torch.randn(6, 7)
    with record_gates(model) as gates:
        model(x)
    expected = gates.entropy()
    compiled = torch.compile(model, backend="aot_eager")
    with record_gates(model) as gates:
        compiled(x)
    torch.testing.assert_close(gates.entropy(), expected)
    gates.entropy().backward()
    assert net[0].gatera_gate["default"].weight.grad is not None


def test_generation_tells_the_prompt_from_the_decoded_tokens(llama: MakeLlama) -> None:
    model = adapted(llama())
    prompt = batch(pad_left=2)
    width = prompt["input_ids"].shape[1]
    with record_gates(model) as gates:
        generated = model.generate(**prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    real = torch.ones_like(generated)[:, :-1]
    real[:, :width] = prompt["attention_mask"]
    decoded = torch.zeros_like(real)
    decoded[:, width:] = 1
    with record_gates(model) as whole:
        model(input_ids=generated[:, :-1], attention_mask=real)
    for part, tokens in (("prompt", 1 - decoded), ("decoded", decoded)):
        expected = whole.statistics(tokens=tokens)
        actual = gates.statistics(part=part)
        assert actual.keys() == expected.keys()
        for name, values in expected.items():
            assert actual[name] == pytest.approx(values, rel=1e-4, abs=1e-6)
    assert gates.overall(part="prompt") != gates.overall(part="decoded")
    with pytest.raises(InputError, match="part='answer' is not known; choose one of: prompt, dec"):
        gates.statistics(part="answer")


@pytest.mark.parametrize("window", [None, 3])
def test_static_caches_count_the_tokens_that_dynamic_ones_do(
    llama: MakeLlama, window: int | None
) -> None:
    """The mask of a static cache has a column for each token that may come, or of a window."""
    base = llama()
    if window is not None:
        fields = {**base.config.to_dict(), "sliding_window": window}
        base = MistralForCausalLM(MistralConfig(**fields))
    model, prompt = adapted(base), batch(pad_left=2)
    prompt["attention_mask"][1, :2] = 1
    recorded = []
    for cache in ("dynamic", "static"):
        with record_gates(model) as gates:
            how = {"max_new_tokens": 6, "min_new_tokens": 6, "cache_implementation": cache}
            model.generate(**prompt, do_sample=False, **how)
        recorded.append({part: gates.statistics(part=part) for part in ("prompt", "decoded")})
    assert recorded[0]["prompt"].keys() == recorded[0]["decoded"].keys() == set(MODULES)
    for part, modules in recorded[0].items():
        for name, values in modules.items():
            assert recorded[1][part][name] == pytest.approx(values, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("sharing", ["block", "model"])
def test_a_shared_gate_is_recorded_once_under_its_block(llama: MakeLlama, sharing: str) -> None:
    model = adapted(llama(), gate_sharing=sharing)
    inputs = batch(pad_left=1)
    states: dict[str, Tensor] = {}
    for index, block in enumerate(model.get_base_model().model.layers):

        def note(_: nn.Module, args: Any, kwargs: Any, name: str = f"model.layers.{index}") -> None:
            states[name] = args[0] if args else kwargs["hidden_states"]

        block.register_forward_pre_hook(note, with_kwargs=True)
    with record_gates(model) as gates:
        model(**inputs)
    layers = model.get_base_model().model.layers
    expected: list[float] = []
    for index, (name, x) in enumerate(states.items()):
        owner = layers[index if sharing == "block" else 0].self_attn.q_proj
        gate = owner.gatera_gate["default"]
        values = torch.sigmoid(x @ gate.weight[0] + gate.bias)[inputs["attention_mask"].bool()]
        assert gates.statistics()[name]["mean"] == pytest.approx(values.mean().item(), rel=1e-5)
        expected.append(entropy_of(values.tolist()))
    assert list(gates.statistics()) == list(states)
    assert gates.entropy().item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_channels_count_as_so_many_values_and_padding_as_none(llama: MakeLlama) -> None:
    model = adapted(llama(), gate="channel", gate_hidden=2, target_modules=["up_proj"])
    inputs = batch(pad_left=2, pad_right=1)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with record_gates(model) as gates:
        model(**inputs)
    gate = layer.gatera_gate["default"]
    logit = seen[0] @ gate.weight_hidden.T @ gate.weight.T + gate.bias
    values = torch.sigmoid(logit)[inputs["attention_mask"].bool()].flatten()
    recorded = gates.statistics()["model.layers.0.mlp.up_proj"]
    assert recorded["mean"] == pytest.approx(values.mean().item(), rel=1e-5)
    assert recorded["entropy"] == pytest.approx(entropy_of(values.tolist()), rel=1e-4)
