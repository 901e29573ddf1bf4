"""Sites: the laws on three hosts, individual adapters, and a gate between factors."""

import pytest
import torch
from tiny_hosts import OnBert, OnLlama
from torch import nn

from bayeslora.adapters.inject import adapter_state, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import Factors, LowRank
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR
from bayeslora.testing.adapter import SiteLaws, randomise, stack


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


CONFIGS = pytest.mark.parametrize(
    "config",
    [
        LoRA(r=2, target_modules=("layers.0", "layers.2")),
        PoLAR(r=2, target_modules=("layers.0", "layers.2")),
    ],
    ids=["lora", "polar"],
)


def adapted(config):
    model = stack().eval()
    sites = inject(model, config, seed=0)
    randomise(sites)
    return model, sites


def inputs():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@CONFIGS
def test_a_gate_changes_what_the_first_factor_hands_on(config):
    """Doubling it doubles the change; both are rounded in float32."""
    _, (site, _) = adapted(config)
    x = inputs()
    base = nn.functional.linear(x, site.weight, site.bias)
    change = site(x) - base
    assert not site.is_gated
    site.attach(lambda z: 2 * z)
    assert site.is_gated
    torch.testing.assert_close(site(x) - base, 2 * change, rtol=1e-5, atol=1e-5)


@CONFIGS
def test_the_tensors_of_a_gate_stay_its_owners(config):
    model, sites = adapted(config)
    before = adapter_state(sites), [name for name, _ in model.named_parameters()]
    sites[0].attach(nn.Linear(2, 2))
    assert adapter_state(sites).keys() == before[0].keys()
    assert [name for name, _ in model.named_parameters()] == before[1]
