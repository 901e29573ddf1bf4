"""Sites: the laws on three hosts for all adapters, and tests of individual adapters."""

import torch
from tiny_hosts import OnBert, OnLlama
from torch import nn

from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import Factors, LowRank
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR, random_factors
from bayeslora.testing.adapter import SiteLaws, stack


class OnStack(SiteLaws):
    def host(self):
        return stack().eval()

    def inputs(self):
        return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class TestLoRAOnStack(OnStack):
    config = LoRA(r=2, target_modules=("layers.0", "layers.2"))


class TestRankStabilisedLoRAOnStack(OnStack):
    config = LoRA(r=4, use_rslora=True, target_modules=("layers.0", "layers.2"))


class TestPoLAROnStack(OnStack):
    config = PoLAR(r=6, target_modules=("layers.1", "layers.2"), num_layers=None)


class TestLoRAOnLlama(OnLlama):
    config = LoRA(r=3, num_layers=2)


class TestPoLAROnLlama(OnLlama):
    config = PoLAR(r=8)


class TestLoRAOnBert(OnBert):
    config = LoRA(r=4, target_modules=("query", "attention.output.dense"))


class TestPoLAROnBert(OnBert):
    config = PoLAR(r=2, num_layers=1)


class TestPiSSAOnStack(OnStack):
    config = PiSSA(r=2, alpha=3.0, target_modules=("layers.0", "layers.2"))
    is_random = False


class TestPiSSAOnLlama(OnLlama):
    config = PiSSA(r=8, target_modules=("q_proj", "k_proj", "down_proj"), num_layers=2)
    is_random = False


def by_hand(dropout=0.0, core=True):
    """Return a site with two inputs, three outputs and rank one; tests spell out all numbers."""
    host = nn.Linear(2, 3)
    host.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    host.bias.data = torch.tensor([0.0, 0.0, 10.0])
    factors = Factors(
        A=torch.tensor([[0.6, 0.8]]),
        B=torch.tensor([[0.0], [1.0], [0.0]]),
        core=torch.tensor([[5.0]]) if core else None,
        orthonormal=core,
    )
    return LowRank("here", host, factors, scale=2.0, dropout=dropout)


def test_forward_by_hand():
    # xWᵀ + b = (1, 2, 13); the change is 2 · 5 · (0.6·1 + 0.8·2) = 22 in the second output.
    got = by_hand()(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(got, torch.tensor([1.0, 2.0 + 2 * 5 * (0.6 + 1.6), 13.0]))


def test_delta_by_hand():
    expected = torch.tensor([[0.0, 0.0], [2 * 5 * 0.6, 2 * 5 * 0.8], [0.0, 0.0]])
    torch.testing.assert_close(by_hand().delta(), expected)
    torch.testing.assert_close(by_hand(core=False).delta(), expected / 5)


def test_dropout_acts_on_the_adapter_alone():
    site = by_hand(dropout=0.5)
    x = torch.tensor([1.0, 2.0]).expand(200, 2)
    torch.manual_seed(0)
    got = site.train()(x)
    assert torch.equal(got[:, 0], torch.ones(200))
    assert torch.equal(got[:, 2], torch.full((200,), 13.0))
    # Each input survives with probability 1/2 and is then doubled: four values of the change.
    values = {round(value, 3) for value in (got[:, 1] - 2).tolist()}
    assert values == {0.0, 2 * 5 * 2 * 0.6, 2 * 5 * 2 * 1.6, 44.0}
    assert torch.equal(site.eval()(x)[0], site(x)[1])


def test_the_gradient_reaches_only_the_core_at_the_start():
    host = nn.Linear(5, 4)
    site = LowRank(
        "here", host, random_factors(4, 5, 2, torch.Generator().manual_seed(0)), scale=4.0
    )
    x = torch.randn(3, 5)
    G = torch.randn(3, 4)
    (site(x) * G).sum().backward()
    assert torch.count_nonzero(site.A.weight.grad) == 0
    assert torch.count_nonzero(site.B.weight.grad) == 0
    # ∂L/∂Θ = s Xᵀ G_W Y with G_W = Gᵀx.
    expected = 4.0 * site.B.weight.T @ (G.T @ x) @ site.A.weight.T
    torch.testing.assert_close(site.core.weight.grad, expected)


def test_gauge_changes_leave_the_function_alone():
    host = nn.Linear(7, 6).double()
    site = LowRank(
        "here", host, random_factors(6, 7, 3, torch.Generator().manual_seed(0)), 4.0
    ).double()
    site.core.weight.data = torch.randn(3, 3, dtype=torch.float64)
    x = torch.randn(4, 7, dtype=torch.float64)
    before = site(x)
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    P = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    with torch.no_grad():
        site.B.weight.copy_(site.B.weight @ Q)
        site.core.weight.copy_(Q.T @ site.core.weight @ P)
        site.A.weight.copy_(P.T @ site.A.weight)
    torch.testing.assert_close(site(x), before, atol=1e-12, rtol=1e-12)
