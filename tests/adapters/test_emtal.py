"""EMTAL: experts among hidden units, the gate against an explicitly permuted network, the fade."""

import copy

import numpy as np
import pytest
import torch
from refusal import refused
from tiny_hosts import tiny_bert, tiny_llama, tokens
from torch import nn
from torch.nn import functional as F

from bayeslora.adapters.inject import export, find_sites, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.contrib.emtal import EMTAL, GatedUnits, balanced_clusters, find_ffns
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

    def test_linears_hold_the_trainable_parameters(self, adapted):
        """Except for the router, which is called only in training passes."""
        for site in adapted[1]:
            layers = {key: layer.weight for key, layer in site.linears().items()}
            assert layers.keys() == site.trainable().keys() - {"router"}
            assert all(
                layers[key] is value for key, value in site.trainable().items() if key in layers
            )


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


@HOSTS
def test_a_faded_router_has_no_gradient(host):
    model, _ = trained(host)
    for fade in (0.0, 0.5):
        for site in gated(model):
            site.fade = fade
        model.zero_grad()
        model.train()
        model(tokens()).last_hidden_state.square().sum().backward()
        for site in gated(model):
            assert (site.router.weight.grad is not None) == (fade > 0)


@HOSTS
@pytest.mark.parametrize("fade", [0.0, 0.4, 1.0])
def test_one_expert_is_lora(host, fade):
    model = host()
    config = EMTAL(r=3, num_experts=1, num_layers=2)
    sites = inject(model, config, seed=0)
    names = tuple(site.name for site in sites)
    plain = host()
    others = inject(plain, LoRA(r=3, alpha=3, target_modules=names), seed=0)
    for site, other in zip(sites, others, strict=True):
        assert torch.equal(site.A.weight, other.A.weight)
    randomise(sites)
    for site, other in zip(sites, others, strict=True):
        for key in "AB":
            other.trainable()[key].data = site.trainable()[key].detach().clone()
    assert torch.equal(states(model, fade=fade), states(plain, fade=fade))


def test_weights_of_experts_have_mean_one_and_are_soft():
    model, _ = trained(tiny_bert)
    site = gated(model)[0]
    x = torch.randn(500, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    omega = site.weights(x)
    torch.testing.assert_close(omega.mean(-1), torch.ones(500, dtype=torch.float64))
    site.temperature = 1.0
    assert site.weights(x).std() > 2 * omega.std()


def test_clusters_are_balanced_and_the_same_for_the_same_seed():
    rows = np.random.default_rng(0).standard_normal((48, 7))
    labels = balanced_clusters(rows, 6)
    assert np.bincount(labels).tolist() == [8] * 6
    assert np.array_equal(labels, balanced_clusters(rows, 6))
    # Only directions count.
    scales = np.random.default_rng(1).uniform(0.1, 9, (48, 1))
    assert np.array_equal(labels, balanced_clusters(scales * rows, 6))


def test_groups_that_are_there_are_found():
    """Tight groups of equal size: each is a cluster, whatever the order of the rows."""
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.standard_normal((9, 9)))[0][:4]
    truth = rng.permutation(np.repeat(np.arange(4), 10))
    rows = centres[truth] + 0.01 * rng.standard_normal((40, 9))
    clusterings = [balanced_clusters(rows, 4, seed) for seed in range(8)]
    # From some starts two groups share a centre; the best of several starts separates them all.
    best = max(clusterings, key=lambda labels: _within(rows, labels))
    pairs = {(int(a), int(b)) for a, b in zip(truth, best, strict=True)}
    assert len(pairs) == 4


def _within(rows, labels):
    X = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return sum((X[labels == k] @ X[labels == k].mean(0)).sum() for k in set(labels.tolist()))


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1.0), (0.25, 1.0), (0.5, 0.5), (0.7, 0.1), (0.75, 0.0), (1.0, 0.0)],
)
def test_the_router_fades_from_a_quarter_to_three_quarters(share, expected):
    assert EMTAL().fade(share) == pytest.approx(expected, abs=1e-12)


def test_the_published_fade_and_none_at_all():
    published = EMTAL(fade_from=0, fade_to=0.5)
    assert [published.fade(share) for share in (0, 0.25, 0.5, 1)] == [1, 0.5, 0, 0]
    assert EMTAL(fade_from=0, fade_to=0).fade(0) == 0


def test_units_of_a_gated_network_are_grouped_by_their_gate():
    model = tiny_llama()
    sites = {site.name: site for site in inject(model, EMTAL(r=3, num_experts=K), seed=0)}
    site = gated(model)[0]
    decides = sites[site.name.replace("up_proj", "gate_proj")].weight.double().numpy()
    assert site.experts.tolist() == balanced_clusters(decides, K).tolist()
    assert np.bincount(site.experts).tolist() == [24 // K] * K


@HOSTS
def test_attention_carries_lora_and_no_gate(host):
    """Also with grouped queries; every linear layer of an adapted layer has one pair of factors."""
    model = host()
    linears = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and ".2." in name
    ]
    sites = inject(model, EMTAL(r=3, num_experts=K, num_layers=1), seed=0)
    assert [site.name for site in sites] == linears
    names = [site.name for site in gated(model)]
    assert len(names) == 1
    assert names[0].endswith(("up_proj", "intermediate.dense"))
    chosen = ("q_proj", "v_proj") if host is tiny_llama else ("query", "value")
    model = host()
    config = EMTAL(r=3, num_experts=K, num_layers=1, target_modules=chosen)
    inside = 2 if host is tiny_bert else 3
    assert len(inject(model, config, seed=0)) == inside + 2


def test_the_published_start_is_small_and_random():
    model = tiny_bert()
    sites = inject(model, EMTAL(r=3, num_experts=K, init="gaussian"), seed=0)
    assert all(0.005 < site.B.weight.std() < 0.04 for site in sites)
    assert gated(model)[0].router.weight.abs().max() > 0
    assert all(torch.count_nonzero(value) == 0 for s in sites for value in s.origin().values())


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"num_experts": 0}, ("option", "num_experts", "0")),
        ({"router_temperature": 0}, ("option", "router_temperature", "0")),
        ({"fade_from": -0.1}, ("option", "fade_from", "-0.1")),
        ({"fade_to": 1.5}, ("option", "fade_to", "1.5")),
        ({"fade_from": 0.5, "fade_to": 0.25}, ("input", "fade_to", "0.25")),
        ({"init": "ones"}, ("unknown", "init", "'ones'")),
        ({"alpha": -1}, ("option", "alpha", "-1")),
        ({"dropout": 1.0}, ("option", "dropout", "1.0")),
    ],
)
def test_options_out_of_range_are_refused(options, refusal):
    with refused(*refusal):
        EMTAL(**options)


@HOSTS
def test_experts_that_do_not_divide_the_units_are_refused(host):
    model = host()
    before = [name for name, _ in model.named_modules()]
    with refused("input", "num_experts", "24", "5"):
        inject(model, EMTAL(num_experts=5), seed=0)
    assert [name for name, _ in model.named_modules()] == before


def test_other_layouts_of_feed_forward_networks_are_refused():
    from transformers import GPT2Config, GPT2Model, ModernBertConfig, ModernBertModel

    small = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 40}
    modern = ModernBertModel(
        ModernBertConfig(**small, intermediate_size=24, pad_token_id=0, cls_token_id=1)
    )
    with refused("input", "emtal", "mlp.Wi"):
        inject(modern, EMTAL(num_experts=K), seed=0)
    gpt2 = GPT2Model(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=40))
    with refused("input", "emtal"):
        inject(gpt2, EMTAL(num_experts=K), seed=0)


def test_layers_that_share_weights_are_one_network():
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=40,
        embedding_size=8,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=3,
    )
    model = AlbertModel(config).eval()
    plain = copy.deepcopy(model)
    inject(model, EMTAL(r=3, num_experts=K), seed=0)
    assert len(gated(model)) == 1
    assert torch.equal(output(model, tokens()), output(plain, tokens()))
