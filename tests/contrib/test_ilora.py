"""iLoRA's gate: exact identities with LoRA in float64, gradients and contexts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_hosts import tiny_llama, tokens

from bayeslora.adapters.inject import export, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.contrib.ilora import (
    CONTEXTS,
    NUM_COORDINATES,
    ILoRA,
    InstanceGate,
    ItemVectors,
    item_vectors,
)
from bayeslora.testing.adapter import CompanionLaws

R, WIDTH = 4, 16


class TestGate(CompanionLaws):
    def make(self):
        return InstanceGate(ILoRA(r=R, num_experts=2), WIDTH)

    def change(self, companion):
        companion.learn(SimpleNamespace(history=HISTORIES))
        randomise(companion.router.parameters())


def seeded(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def randomise(parameters, seed=1):
    """Set parameters in place to float64 values of size 1."""
    with torch.no_grad():
        for place, parameter in enumerate(parameters):
            parameter.copy_(seeded(*parameter.shape, seed=seed + place))


def adapted(num_experts=2, *, trained=True, router=True):
    """Return a decoder in float64 with its sites and gate."""
    model = tiny_llama().double()
    config = ILoRA(r=R, num_experts=num_experts, num_layers=2)
    sites = inject(model, config, seed=0)
    model.double()
    gate = InstanceGate(config, WIDTH).double()
    gate.attach(sites)
    if trained:
        randomise([site.B.weight for site in sites])
    if router:
        randomise(gate.router.parameters(), seed=100)
    return model, sites, gate


def plain(sites):
    """Return the same decoder with LoRA and the same factors."""
    model = tiny_llama().double()
    others = inject(model, LoRA(r=R, num_layers=2), seed=0)
    model.double()
    with torch.no_grad():
        for site, other in zip(sites, others, strict=True):
            other.A.weight.copy_(site.A.weight)
            other.B.weight.copy_(site.B.weight)
    return model, others


def states(model, rows=None):
    hidden = model(tokens() if rows is None else rows).last_hidden_state
    assert hidden.dtype == torch.float64
    return hidden


def gradients(sites):
    return [value.grad for site in sites for value in site.trainable().values()]


def close(result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_experts", [2, 4])
def test_a_router_of_zeros_is_lora_in_outputs_and_gradients(num_experts):
    model, sites, gate = adapted(num_experts, router=False)
    other, others = plain(sites)
    with gate.applied({CONTEXTS: seeded(3, WIDTH)}):
        hidden = states(model)
    expected = states(other)
    close(hidden, expected)
    for result in (hidden, expected):
        result.square().sum().backward()
    for first, second in zip(gradients(sites), gradients(others), strict=True):
        close(first, second)


def test_a_constant_gate_is_a_weighted_lora():
    model, sites, gate = adapted()
    with torch.no_grad():
        gate.router.weight.zero_()
    p = gate.router.bias.softmax(0)
    other, others = plain(sites)
    with torch.no_grad():
        for site in others:
            site.B.weight.mul_((2 * p).repeat_interleave(2))
    with gate.applied({CONTEXTS: seeded(3, WIDTH)}):
        close(states(model), states(other))
    # Then no context is needed, and a single matrix describes the adapter.
    assert not any(site.is_gated for site in sites)
    with gate.applied({}):
        close(states(model), states(other))
    for first, second in zip(sites, others, strict=True):
        close(first.delta(), second.delta())
    close(states(export(model)), states(other))


def test_the_gradient_of_a_gate_is_its_experts_product():
    """∂L/∂g_k = s Σ_t ⟨B_kᵀ dY_t, A_k x_t⟩, on one site."""
    _, (site, *_), gate = adapted()
    x, upstream = seeded(3, 5, 16), seeded(3, 5, site.out_features, seed=9)
    gates = (2 * gate.weights(seeded(3, WIDTH))).detach().requires_grad_()
    with gate._with_gates(gates):
        (site(x) * upstream).sum().backward()
    A, B = site.A.weight.detach(), site.B.weight.detach()
    each = site.scale * ((upstream @ B) * (x @ A.T)).unflatten(-1, (2, 2)).sum((1, 3))
    close(gates.grad, each)


HISTORIES = [["a", "b", "c"], ["a", "b"], ["b", "d"], ["d", "e", "a"], ["c", "a", "a"]]


def similarity(histories, names):
    """Compute the similarity of names with explicit loops."""
    sets = [set(history) for history in histories]
    counts = {name: sum(name in items for items in sets) for name in names}
    result = np.zeros((len(names), len(names)))
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i != j:
                both = sum(first in items and second in items for items in sets)
                result[i, j] = both / ((counts[first] + 5) * (counts[second] + 5)) ** 0.5
    return result


def test_item_vectors_are_scaled_eigenvectors_of_the_similarity():
    names = ["a", "b", "c", "d", "e"]
    result = item_vectors(HISTORIES, names)
    assert result.shape == (5, NUM_COORDINATES)
    assert not result[:, 5:].any()
    # With all eigenvectors, Σ |λ| u uᵀ is the matrix's absolute value.
    values, vectors = np.linalg.eigh(similarity(HISTORIES, names))
    expected = vectors @ np.diag(np.abs(values)) @ vectors.T
    np.testing.assert_allclose(result @ result.T, expected, atol=1e-12)


def test_a_history_is_the_mean_of_its_items_and_new_ones_count_as_zero():
    items = ItemVectors()
    items.learn(HISTORIES)
    alone = items.encode([["a"], ["b"]]).double()
    result = items.encode([["a", "b"], ["a", "new"], ["new"], []]).double()
    expected = torch.stack([alone.mean(0), alone[0] / 2, torch.zeros(64), torch.zeros(64)])
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
