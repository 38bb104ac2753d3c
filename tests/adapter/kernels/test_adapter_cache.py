"""Products kept in evaluation are used while nothing has changed, and never after."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from gatera import GateraConfig
from gatera.adapter import limit_kept_products
from gatera.adapter import linear as linear_module
from gatera.adapter.kernels import cache as cache_module
from gatera.adapter.kernels import hadamard
from gatera.adapter.kernels.cache import ProductCache
from gatera.adapter.updates import hira
from gatera.errors import InputError

IN, OUT = 7, 5
VARIANTS = ["token", "static", "none"]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> ProductCache:
    """A cache of its own, so that tests do not see each other's products."""
    fresh = ProductCache(limit_bytes=10_000)
    monkeypatch.setattr(linear_module, "products", fresh)
    return fresh


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each product that is built."""
    calls: list[str] = []
    for name, user in (("hadamard_product", hira), ("folded_weight", hira)):
        original = getattr(hadamard, name)

        def counted(*args: Tensor, name: str = name, original: Callable[..., Tensor] = original):
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(user, name, counted)
    return calls


def adapted(gate: str) -> tuple[PeftModel, nn.Module]:
    torch.manual_seed(3)
    config = GateraConfig(r=2, gate=gate, init_weights=False, target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(IN, OUT)), config).eval()
    return model, model.base_model.model[0]


def changed_data(layer: nn.Module) -> None:
    layer.gatera_B["default"].data.mul_(2.0)  # no version tells of this


def changed_in_place(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.gatera_A["default"].add_(0.5)


def replaced(layer: nn.Module) -> None:
    layer.gatera_B["default"] = nn.Parameter(layer.gatera_B["default"].detach() * 3)


def loaded(layer: nn.Module) -> None:
    layer.load_state_dict({n: 2 * v for n, v in layer.state_dict().items()})


def base_changed(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.base_layer.weight.mul_(-1.0)


def base_replaced(layer: nn.Module) -> None:
    layer.base_layer.weight.data = layer.base_layer.weight.data * 2


def converted(layer: nn.Module) -> None:
    layer.double().float()
    changed_data(layer)


CHANGES = [changed_data, changed_in_place, replaced, loaded, base_changed, base_replaced, converted]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("gate", VARIANTS)
def test_every_change_of_a_weight_is_seen(
    cache: ProductCache, gate: str, change: Callable[[nn.Module], None]
) -> None:
    model, layer = adapted(gate)
    x = torch.randn(3, IN)
    with torch.no_grad():
        before = model(x)
        change(layer)
        after = model(x)
    assert cache.used_bytes() > 0
    expected = model(x).detach()  # with a graph nothing is read from memory
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("gate", VARIANTS)
def test_products_are_built_once_in_evaluation(
    cache: ProductCache, built: list[str], gate: str
) -> None:
    model, _ = adapted(gate)
    with torch.no_grad():
        first = model(torch.ones(3, IN))
        for _ in range(4):
            assert torch.equal(model(torch.ones(3, IN)), first)
    assert built == ["hadamard_product" if gate == "token" else "folded_weight"]
    assert cache.used_bytes() == OUT * IN * 4
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.ones(3, IN))
    assert built[-1] == "hadamard_product"
    assert len(built) == 2


def test_a_changed_static_gate_is_seen(cache: ProductCache) -> None:
    model, layer = adapted("static")
    x = torch.randn(3, IN)
    with torch.no_grad():
        before = model(x)
        layer.gatera_gate["default"].bias.fill_(2.0)
        after = model(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model(x).detach())


def test_training_forgets_the_products(cache: ProductCache) -> None:
    model, _ = adapted("token")
    with torch.no_grad():
        model(torch.ones(3, IN))
    assert cache.used_bytes() > 0
    model.train()
    assert cache.used_bytes() == 0
    with torch.no_grad():
        model(torch.ones(3, IN))
    assert cache.used_bytes() == 0


def test_a_move_forgets_the_products_and_the_weights_they_were_made_from(
    cache: ProductCache,
) -> None:
    model, layer = adapted("token")
    with torch.no_grad():
        model(torch.ones(3, IN))
    weight = weakref.ref(layer.base_layer.weight.untyped_storage())
    model.double()
    assert cache.used_bytes() == 0
    assert weight() is None


def test_merging_and_unmerging_is_seen(cache: ProductCache) -> None:
    model, _ = adapted("none")
    x = torch.randn(3, IN)
    with torch.no_grad():
        before = model(x)
        model.merge_adapter()
        torch.testing.assert_close(model(x), before)
        model.unmerge_adapter()
        assert torch.equal(model(x), before)


def test_the_limit_holds_over_all_layers(cache: ProductCache, built: list[str]) -> None:
    cache.limit_bytes = OUT * IN * 4
    (first, _), (second, _) = adapted("token"), adapted("token")
    with torch.no_grad():
        for _ in range(3):
            first(torch.ones(3, IN))
            second(torch.ones(3, IN))
    assert cache.used_bytes() == OUT * IN * 4
    assert len(built) == 1 + 3


def test_the_limit_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ProductCache(limit_bytes=0)
    monkeypatch.setattr(cache_module, "products", cache)
    monkeypatch.setattr(linear_module, "products", cache)
    model, _ = adapted("token")
    with torch.no_grad():
        for limit, used in ((OUT * IN * 4, OUT * IN * 4), (OUT * IN * 4 - 1, 0)):
            limit_kept_products(limit)
            model(torch.ones(3, IN))
            assert cache.used_bytes() == used
    with pytest.raises(InputError, match="limit_bytes=-1 is not a number of bytes"):
        limit_kept_products(-1)


def test_products_go_with_their_model_and_are_not_copied(cache: ProductCache) -> None:
    model, layer = adapted("token")
    with torch.no_grad():
        model(torch.ones(3, IN))
    copied = copy.deepcopy(model)
    assert cache.used_bytes() == OUT * IN * 4
    del model, layer, copied
    gc.collect()
    assert cache.used_bytes() == 0


@pytest.mark.parametrize("gate", VARIANTS)
def test_inference_mode_gives_the_same_output(cache: ProductCache, gate: str) -> None:
    model, _ = adapted(gate)
    x = torch.randn(3, IN)
    expected = model(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x).detach(), expected)
