"""BatchNorm over processes on CPUs, in a group of one; two processes are in test_distributed.py."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn

from backdrop.trainer.parts.running_statistics import still_running_statistics
from backdrop.trainer.parts.sync_batch_norm import synchronise_batch_norms


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the collectives that were called, in a group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    names: list[str] = []

    def counting(name: str) -> Any:
        function = getattr(distributed, name)

        def call(*arguments: Any, **options: Any) -> Any:
            names.append(name)
            return function(*arguments, **options)

        return call

    try:
        for name in ("all_reduce", "all_gather", "all_gather_into_tensor"):
            monkeypatch.setattr(distributed, name, counting(name))
        yield names
    finally:
        distributed.destroy_process_group()


def synchronised(norm: nn.Module) -> nn.Module:
    return synchronise_batch_norms(nn.Sequential(norm), None, device=torch.device("cpu"))[0]


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs_batch_norm_with_one_collective_each_way(
    called: list[str], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    plain = nn.BatchNorm1d(4) if len(shape) == 2 else nn.BatchNorm2d(4)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    own = synchronised(type(plain)(4))
    own.load_state_dict(plain.state_dict())
    x = (30.0 + torch.randn(shape)).to(dtype)
    found = {}
    for norm in (plain, own):
        norm_x = x.clone().requires_grad_()
        y = norm(norm_x)
        (y.float() ** 3).sum().backward()
        gradients = (norm_x.grad, norm.weight.grad, norm.bias.grad)
        found[norm] = [y, *gradients, *norm.buffers()]
    assert called == ["all_gather_into_tensor", "all_reduce"]
    tolerance = 1e-4 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(found[own], found[plain], rtol=tolerance, atol=tolerance)


def test_its_gradient_is_that_of_its_formula(called: list[str]) -> None:
    own = synchronised(nn.BatchNorm2d(2)).double()
    x_BCHW = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weight_C, bias_C = (torch.rand(2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def normalised(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(own, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(normalised, (x_BCHW, weight_C, bias_C))


def test_running_statistics_may_be_held_still(called: list[str]) -> None:
    own = synchronised(nn.BatchNorm1d(4))
    with still_running_statistics(own):
        own(torch.randn(6, 4))
    assert torch.equal(own.running_mean, torch.zeros(4))
    own(torch.randn(6, 4))
    assert not torch.equal(own.running_mean, torch.zeros(4))
