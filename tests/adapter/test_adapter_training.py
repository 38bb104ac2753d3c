"""The lean layers under what training wraps around a model: DDP, checkpointing, compilation."""

from __future__ import annotations

import copy
import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import PeftModel, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from gatera import GateraConfig, record_gates

IN, HIDDEN, OUT, BATCH, TOKENS = 7, 11, 5, 4, 3
GATES = ["token", "static", "none"]


def network(gate: str, delta: str = "hira", dtype: torch.dtype = torch.float32) -> PeftModel:
    """Two adapted layers, one wider than its input and one narrower."""
    torch.manual_seed(3)
    base = nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT)).to(dtype)
    config = GateraConfig(
        r=2,
        gate=gate,
        delta=delta,
        init_weights=False,
        gate_init_std=0.5,
        target_modules=["0", "2"],
    )
    return get_peft_model(base, config).to(dtype)


def batch(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(BATCH, TOKENS, IN, generator=generator, dtype=torch.float64).to(dtype)


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """A loss with the entropy of the gates, as training has it."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    with record_gates(inner) as gates:
        loss: Tensor = model(x).square().mean()
    return loss + 0.1 * gates.entropy()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}
    return {name: grad for name, grad in found.items() if grad is not None}


_LONGEST_SECONDS = 150.0


def _train_in_a_process(rank: int, rendezvous: str, results: str) -> None:
    # Its parent waits without an end: rather end with a stack that shows where it stands.
    faulthandler.dump_traceback_later(_LONGEST_SECONDS, exit=True)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # else it asks the network for this host's name
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=2),
    )
    torch.save({gate: _gradients_of_half(gate, rank) for gate in GATES}, f"{results}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


def _gradients_of_half(gate: str, rank: int) -> dict[str, Tensor]:
    """Train on this process's half of the batch; leave nothing that knows the process group.

    A wrapped model that outlived it would end it while it holds the GIL, and gloo's thread may need
    the GIL to end: https://github.com/pytorch/pytorch/issues/56297.
    """
    half = BATCH // 2
    model = DistributedDataParallel(network(gate, dtype=torch.float64))
    loss_of(model, batch(torch.float64)[rank * half : (rank + 1) * half]).backward()
    return gradients(model)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_get_the_gradients_of_one(tmp_path: Path) -> None:
    """Every gate in one pair of processes: starting them takes the time."""
    results = str(tmp_path / "gradients")
    mp.spawn(_train_in_a_process, (str(tmp_path / "meeting"), results), nprocs=2)
    for gate in GATES:
        alone = network(gate, dtype=torch.float64)
        loss_of(alone, batch(torch.float64)).backward()
        expected = gradients(alone)
        for rank in (0, 1):
            found = torch.load(f"{results}.{rank}")[gate]
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.filterwarnings("ignore")  # FSDP's own, of one process
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("delta", ["hira", "lora"])
@pytest.mark.parametrize("gate", ["token", "static", "mlp", "attention", "channel"])
def test_fsdp_with_peft_wrap_policy_gives_the_same_gradients(gate: str, delta: str) -> None:
    """That policy wraps each gate with a weight by itself."""
    alone, inner = network(gate, delta), network(gate, delta)
    sharded = FullyShardedDataParallel(
        inner,
        auto_wrap_policy=fsdp_auto_wrap_policy(inner),
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    for model in (alone, sharded):
        loss_of(model, batch()).backward()
    names = {name.replace("_fsdp_wrapped_module.", ""): g for name, g in gradients(sharded).items()}
    expected = gradients(alone)
    assert names.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(names[name], gradient, msg=lambda m, n=name: f"{n}: {m}")


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gate", GATES)
def test_checkpointing_changes_no_bit_of_the_gradients(gate: str, dtype: torch.dtype) -> None:
    found = []
    for wrap in (lambda inner: inner, Checkpointed):
        model = network(gate, dtype=dtype)
        layers = model.base_model.model
        layers[2] = wrap(layers[2])
        x = batch(dtype).requires_grad_()
        model(x).square().mean().backward()
        gradients_by_name = {n.replace("inner.", ""): g for n, g in gradients(model).items()}
        found.append({**gradients_by_name, "x": x.grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient is not None
        assert gradient.any(), name
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("training", [True, False])
def test_compiled_networks_have_one_graph_and_the_same_gradients(gate: str, training: bool) -> None:
    model = network(gate).train(training)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    found = []
    for each in (model, compiled):
        x = batch().requires_grad_()
        y = each(x)
        y.square().mean().backward()
        named = {n.replace("_orig_mod.", ""): g for n, g in gradients(each).items()}
        found.append({**named, "x": x.grad, "y": y})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("gate", GATES)
def test_autocast_trains_in_bfloat16_and_keeps_float32_gradients(gate: str) -> None:
    found: list[dict[str, Any]] = []
    for enabled in (False, True):
        model = network(gate)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = model(batch())
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        y.float().square().mean().backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        assert found[1][name].dtype == torch.float32
        torch.testing.assert_close(found[1][name], expected, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("delta", ["hira", "lora"])
def test_a_hooked_gate_is_called_and_gives_the_same(delta: str) -> None:
    """The gate's arithmetic joins the layer's only where nobody could see the difference."""
    plain, hooked = network("token", delta), network("token", delta)
    seen: list[Tensor] = []
    gate: Any = hooked.base_model.model[0].gatera_gate["default"]
    hook: Callable[..., None] = lambda module, args, logit: seen.append(logit)  # noqa: E731
    gate.register_forward_hook(hook)
    for model in (plain, hooked):
        loss_of(model, batch()).backward()
    assert len(seen) == 1
    for name, expected in gradients(plain).items():
        torch.testing.assert_close(gradients(hooked)[name], expected)
