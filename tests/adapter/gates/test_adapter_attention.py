"""The attention gate and the key-value cache: the same gates as one full pass, or a refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
)

from gatera import GateraConfig, record_gates
from gatera.adapter.layer import GateraLayer

SHARINGS = ("module", "block", "model")
PROMPT = torch.tensor([[0, 0, 5, 9], [4, 8, 3, 6]])
sharings = pytest.mark.parametrize("sharing", SHARINGS)


def attending(make: Callable[[], LlamaForCausalLM], sharing: str = "module") -> PeftModel:
    torch.manual_seed(7)
    config = GateraConfig(
        r=2,
        gate="attention",
        gate_sharing=sharing,
        gate_hidden=3,
        gate_init_std=0.7,
        init_weights=False,
        target_modules=["q_proj", "down_proj"],
    )
    return get_peft_model(make(), config).eval()


def gates_of_a_pass(model: PeftModel, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), record_gates(model) as gates:
        model(input_ids=ids, attention_mask=mask)
    return {name: logit.clone() for (name, _), logit in gates._logits.items()}


@sharings
@pytest.mark.parametrize("sampled", [False, True])
def test_generation_has_the_gates_of_one_full_pass(
    sharing: str, sampled: bool, llama: Callable[[], LlamaForCausalLM]
) -> None:
    model = attending(llama, sharing)
    mask = (PROMPT != 0).long()
    seen: dict[str, list[Tensor]] = {}
    with record_gates(model) as gates:

        def note(module: nn.Module, args: object, output: object) -> None:
            for (name, _), logit in gates._logits.items():
                seen.setdefault(name, []).append(logit)

        handle = model.base_model.model.register_forward_hook(note)
        how = {"max_new_tokens": 5, "do_sample": sampled, "eos_token_id": None}
        ids = model.generate(input_ids=PROMPT, attention_mask=mask, **how)
        handle.remove()
    whole_mask = torch.cat([mask, torch.ones(2, 5, dtype=torch.long)], dim=1)
    places = (whole_mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), record_gates(model) as gates:
        model(input_ids=ids[:, :-1], attention_mask=whole_mask[:, :-1], position_ids=places[:, :-1])
        whole = {name: logit for (name, _), logit in gates._logits.items()}
    assert whole.keys() == seen.keys()
    for name, logit in whole.items():
        stepwise = torch.cat(seen[name], dim=1)
        real = whole_mask[:, :-1].bool()
        torch.testing.assert_close(stepwise[real], logit[real], rtol=1e-4, atol=1e-5)


@sharings
def test_beams_give_the_same_with_and_without_a_cache(
    sharing: str, llama: Callable[[], LlamaForCausalLM]
) -> None:
    model = attending(llama, sharing)
    how = {"max_new_tokens": 6, "num_beams": 4, "do_sample": False, "eos_token_id": None}
    mask = (PROMPT != 0).long()
    how |= {"return_dict_in_generate": True, "output_scores": True}
    cached = model.generate(input_ids=PROMPT, attention_mask=mask, use_cache=True, **how)
    whole = model.generate(input_ids=PROMPT, attention_mask=mask, use_cache=False, **how)
    assert torch.equal(cached.sequences, whole.sequences)
    # A beam that read another one's history would shift every score, if not the best sequence.
    for one, other in zip(cached.scores, whole.scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_beams_do_change_their_order_in_that_test(llama: Callable[[], LlamaForCausalLM]) -> None:
    model = attending(llama)
    orders: list[Tensor] = []
    original = DynamicCache.reorder_cache

    def noted(self: DynamicCache, index: Tensor) -> None:
        orders.append(index)
        original(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DynamicCache, "reorder_cache", noted)
        model.generate(
            input_ids=PROMPT, attention_mask=(PROMPT != 0).long(), max_new_tokens=6, num_beams=4
        )
    assert any(not torch.equal(order, torch.arange(len(order))) for order in orders)


@sharings
@pytest.mark.parametrize("beams", [1, 3])
def test_a_static_cache_gives_the_gates_of_a_dynamic_one(
    sharing: str, beams: int, llama: Callable[[], LlamaForCausalLM]
) -> None:
    model = attending(llama, sharing)
    how = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "num_beams": beams}
    how |= {"return_dict_in_generate": True, "output_scores": True}
    mask = (PROMPT != 0).long()
    results, statistics = [], []
    for cache in ("dynamic", "static", "static"):  # the second time the cache is emptied and used
        with record_gates(model) as gates:
            results.append(
                model.generate(
                    input_ids=PROMPT, attention_mask=mask, cache_implementation=cache, **how
                )
            )
        statistics.append(gates.overall())
    for result, overall in zip(results[1:], statistics[1:], strict=True):
        assert torch.equal(result.sequences, results[0].sequences)
        assert overall == pytest.approx(statistics[0], rel=1e-4)
        for one, other in zip(result.scores, results[0].scores, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_emptied_cache_forgets_the_gates(llama: Callable[[], LlamaForCausalLM]) -> None:
    model = attending(llama)
    ids = torch.tensor([[4, 8, 3]])
    cache = StaticCache(config=model.config, max_cache_len=8)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
        cache.reset()
        with model.disable_adapter():
            model(input_ids=ids, past_key_values=cache)
        with pytest.raises(ValueError, match=r"holds 3 tokens, and the attention gate .* saw 0"):
            model(input_ids=ids[:, :1], past_key_values=cache)


def test_a_loop_of_ones_own_and_a_copied_prefix(llama: Callable[[], LlamaForCausalLM]) -> None:
    model = attending(llama)
    ids = torch.tensor([[4, 8, 3, 6, 7]])
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :3], use_cache=True)
        prefix = copy.deepcopy(first.past_key_values)
        one = model(input_ids=ids[:, 3:], past_key_values=first.past_key_values).logits
        again = model(input_ids=ids[:, 3:], past_key_values=prefix).logits
    torch.testing.assert_close(one, whole[:, 3:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, one, rtol=0, atol=0)


def test_a_cropped_cache_goes_on_where_it_was_cut(llama: Callable[[], LlamaForCausalLM]) -> None:
    model = attending(llama)
    ids = torch.tensor([[4, 8, 3, 6, 7]])
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        cache = model(
            input_ids=torch.tensor([[4, 8, 9]]), use_cache=True
        ).past_key_values  # the last token was a wrong guess
        cache.crop(-1)
        rest = model(input_ids=ids[:, 2:], past_key_values=cache).logits
    torch.testing.assert_close(rest, whole[:, 2:], rtol=1e-4, atol=1e-5)


def test_a_cache_of_the_base_model_is_refused(llama: Callable[[], LlamaForCausalLM]) -> None:
    model = attending(llama)
    ids = torch.tensor([[4, 8, 3]])
    with torch.no_grad():
        with model.disable_adapter():
            cache = model(input_ids=ids, use_cache=True).past_key_values
        with pytest.raises(ValueError, match=r"holds 3 tokens, and the attention gate .* saw 0"):
            model(input_ids=ids[:, :1], past_key_values=cache)


@pytest.mark.parametrize("use_cache", [False, True])
def test_packed_sequences_are_refused_where_an_attention_gate_acts(
    use_cache: bool, llama: Callable[[], LlamaForCausalLM]
) -> None:
    model = attending(llama)
    model.add_adapter("token", GateraConfig(r=2, init_weights=False, target_modules=["q_proj"]))
    ids = torch.tensor([[5, 9, 4, 7, 8, 3]])
    packed = {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]), "use_cache": use_cache}
    apart = torch.ones(3, 3, dtype=torch.bool).tril()
    masks = {"attention_mask": torch.block_diag(apart, apart).bool()[None, None]}
    with torch.no_grad():
        with pytest.raises(ValueError, match="position_ids do not go up within a row, as where"):
            model(input_ids=ids, **packed)
        with pytest.raises(ValueError, match=r"mask \(1, 1, 6, 6\) hides real tokens from later"):
            model(input_ids=ids, use_cache=use_cache, **masks)
        with model.disable_adapter():
            model(input_ids=ids, **packed)
        model.set_adapter("token")
        together = model(input_ids=ids, **masks, **packed).logits
        alone = model(input_ids=ids[:, 3:]).logits
    torch.testing.assert_close(together[:, 3:], alone, rtol=1e-4, atol=1e-5)


def test_the_mask_of_a_window_on_a_static_cache_is_refused(
    llama: Callable[[], LlamaForCausalLM],
) -> None:
    fields = {**llama().config.to_dict(), "sliding_window": 3}
    model = attending(lambda: MistralForCausalLM(MistralConfig(**fields)).eval())
    how = {"attention_mask": (PROMPT != 0).long(), "max_new_tokens": 4, "do_sample": False}
    with pytest.raises(ValueError, match=r"sliding windows on a static cache .* a dynamic cache"):
        model.generate(input_ids=PROMPT, cache_implementation="static", **how)
    cached = model.generate(input_ids=PROMPT, **how)
    assert torch.equal(cached, model.generate(input_ids=PROMPT, use_cache=False, **how))


def test_mixed_batches_are_refused(llama: Callable[[], LlamaForCausalLM]) -> None:
    model = attending(llama)
    with pytest.raises(ValueError, match="looks at the tokens before, which a mixed batch"):
        model(input_ids=PROMPT, adapter_names=["default", "__base__"])


def test_encoder_decoders_are_refused() -> None:
    config = T5Config(vocab_size=31, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2)
    model = T5ForConditionalGeneration(config)
    with pytest.raises(ValueError, match="is an encoder-decoder"):
        get_peft_model(model, GateraConfig(r=2, gate="attention", target_modules=["q"]))
    assert not any(isinstance(module, GateraLayer) for module in model.modules())


def test_a_mask_that_covers_other_tokens_is_refused(llama: Callable[[], LlamaForCausalLM]) -> None:
    model = attending(llama)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        model(input_ids=PROMPT, attention_mask=(PROMPT != 0).long())
        with pytest.raises(ValueError, match=r"covers tokens \(2, 4\), .* sees \(3, 5\)"):
            layer(torch.randn(3, 5, 24))


def test_passes_before_one_backward_keep_their_own_masks(
    llama: Callable[[], LlamaForCausalLM],
) -> None:
    """Two forward passes, then one backward pass, with and without checkpointing."""
    gradients = []
    masks = [torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]])]
    for checkpointing in (False, True):
        model = attending(llama).train()
        if checkpointing:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
            model.enable_input_require_grads()
        loss = sum(
            model(input_ids=PROMPT, attention_mask=mask, labels=PROMPT).loss for mask in masks
        )
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_a_row_without_a_sequence_has_the_token_gate() -> None:
    torch.manual_seed(1)
    fields = {"r": 2, "init_weights": False, "target_modules": ["0"], "gate_init_std": 0.5}
    attention = get_peft_model(
        nn.Sequential(nn.Linear(5, 3)), GateraConfig(gate="attention", **fields)
    )
    layer = attention.base_model.model[0]
    x = torch.randn(4, 5)
    gate = layer.gatera_gate["default"]
    expected = x @ gate.weight.T + gate.bias
    torch.testing.assert_close(gate(x), expected)
