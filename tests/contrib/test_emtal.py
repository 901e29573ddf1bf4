"""EMTAL: experts among hidden units, the gate against an explicitly permuted network, the fade."""

import copy

import pytest
import torch
from tiny_hosts import tiny_bert, tiny_llama, tokens
from torch import nn
from torch.nn import functional as F

from bayeslora.adapters.inject import export, find_sites, inject
from bayeslora.contrib.emtal import EMTAL, GatedUnits, find_ffns
from bayeslora.testing.adapter import SiteLaws, output, randomise

HOSTS = pytest.mark.parametrize("host", [tiny_bert, tiny_llama], ids=["bert", "llama"])
K = 4


class EMTALLaws(SiteLaws):
    config = EMTAL(r=3, num_experts=K, num_layers=2)

    def inputs(self):
        return tokens()

    def put(self, model, seed=0):
        sites = super().put(model, seed)
        for site in gated(model):
            site.fade = 0.5
        return sites


class TestEMTALOnBert(EMTALLaws):
    def host(self):
        return tiny_bert()


class TestEMTALOnLlama(EMTALLaws):
    def host(self):
        return tiny_llama()


def gated(model):
    return [site for site in find_sites(model) if isinstance(site, GatedUnits)]


def trained(host):
    """Return a float64 model with random adapters and routers."""
    model = host()
    sites = inject(model, EMTAL(r=3, num_experts=K, num_layers=2), seed=0)
    model.double()
    randomise(sites, size=1.0)
    return model, sites


def states(model, *, fade):
    """Return the hidden states of a training pass at a given influence of the router."""
    for site in gated(model):
        site.fade = fade
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return output(model, tokens())


class PermutedFFN(nn.Module):
    """The published form: units sorted by expert, the gate repeated over each run of units."""

    def __init__(self, up, down, activation, gate=None, *, fade, right=True):
        super().__init__()
        order = up.experts.argsort(stable=True)
        plain, below = up.merged(), down.merged()
        self.W, self.b = plain.weight[order], None if plain.bias is None else plain.bias[order]
        self.V, self.c = below.weight[:, order] if right else below.weight, below.bias
        self.G = None if gate is None else gate.merged().weight[order]
        self.R, self.tau, self.f = up.router.weight, up.temperature, fade
        self.act = activation

    def forward(self, x):
        K, h = len(self.R), len(self.W)
        omega = K * torch.softmax(x @ self.R.T / self.tau, -1)
        omega = self.f * omega + (1 - self.f)
        rep = omega.repeat_interleave(h // K, -1)
        u = F.linear(x, self.W, self.b)
        hidden = self.act(rep * u) if self.G is None else rep * (self.act(x @ self.G.T) * u)
        return F.linear(hidden, self.V, self.c)


@HOSTS
@pytest.mark.parametrize("fade", [0.0, 0.3, 1.0])
def test_units_in_place_are_the_permuted_network(host, fade):
    """Check GELU with bias, and SwiGLU; a wrong permutation gives another function."""
    model, _ = trained(host)
    x = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for block in find_ffns_of_sites(model):
        up, down, gate, act = block
        for site in (up, down, *([gate] if gate else [])):
            site.train()
        up.fade = fade
        result = down(act(up(x)) if gate is None else act(gate(x)) * up(x))
        expected = PermutedFFN(up, down, act, gate, fade=fade)(x)
        # Sums in another order, in float64.
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
        wrong = PermutedFFN(up, down, act, gate, fade=fade, right=False)(x)
        assert (wrong - expected).abs().max() > 1e-2


def find_ffns_of_sites(model):
    at = model.get_submodule
    for block in find_ffns(model):
        if isinstance(at(block.up), GatedUnits):
            gate = None if block.gate is None else at(block.gate)
            yield at(block.up), at(block.down), gate, (nn.GELU() if gate is None else nn.SiLU())


@HOSTS
@pytest.mark.parametrize("fade", [0.0, 0.37, 1.0])
def test_the_default_start_changes_nothing_at_any_fade(host, fade):
    model = host()
    inject(model, EMTAL(r=3, num_experts=K), seed=0)
    plain = host()
    assert torch.equal(states(model, fade=fade), states(plain, fade=fade))


@HOSTS
def test_without_its_router_it_is_the_merged_dense_network(host):
    model, _ = trained(host)
    plain = export(copy.deepcopy(model))
    assert not any("router" in name or "experts" in name for name in plain.state_dict())
    expected = states(plain, fade=0)
    torch.testing.assert_close(states(model, fade=0), expected, rtol=1e-10, atol=1e-10)
    assert (states(model, fade=1) - expected).abs().max() > 1e-3
    model.eval()  # The influence is still 1 here.
    torch.testing.assert_close(output(model, tokens()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1.0), (0.25, 1.0), (0.5, 0.5), (0.7, 0.1), (0.75, 0.0), (1.0, 0.0)],
)
def test_the_router_fades_from_a_quarter_to_three_quarters(share, expected):
    assert EMTAL().fade(share) == pytest.approx(expected, abs=1e-12)
