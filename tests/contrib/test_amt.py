"""The pool of AMT: outputs of mixtures, merging, invalid arguments."""

import math

import pytest
import torch
from torch import nn

from bayeslora.adapters.inject import export, inject
from bayeslora.contrib.amt import AMT, published_weights, separation
from bayeslora.posteriors.last_layer.prototypes import cosine_logits, held_out_cosines, prototypes

P, R = 3, 2
OPTIONS = {"r": R, "eps": (0.0, 0.1, 0.2), "weight_eps": (0.0, 0.01, 0.02), "target_modules": "up"}


class Host(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(5, 7)

    def forward(self, x):
        return self.up(x)


def pool():
    """Return a host with a pool whose members differ, its plain twin and the site."""
    host, plain = Host().double(), Host().double()
    (site,) = inject(host, AMT(**OPTIONS), 0)
    site.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in site.trainable().values():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter))
    return host, plain, site


def member(site, number):
    A, B = (
        tensor.narrow(axis, s.start, s.stop - s.start) for tensor, s, axis in site.parts(number)
    )
    return A, B


X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_the_start_changes_nothing():
    host, plain = Host(), Host()
    inject(host, AMT(**OPTIONS), 0)
    torch.testing.assert_close(host(X.float()), plain(X.float()), atol=1e-6, rtol=0)


def test_members_start_at_the_largest_singular_vectors():
    (site,) = inject(Host(), AMT(**OPTIONS), 0)
    U, S, Vh = torch.linalg.svd(site.weight.detach())
    expected = U[:, :R] @ torch.diag(S[:R]) @ Vh[:R]
    for number in range(P):
        A, B = member(site, number)
        torch.testing.assert_close(B @ A, expected)


@pytest.mark.parametrize("weights", [[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
def test_a_mixture_averages_products(weights):
    host, plain, site = pool()
    site.select(weights)
    products = [B @ A for A, B in (member(site, number) for number in range(P))]
    change = sum(w * product for w, product in zip(site.mixture.tolist(), products, strict=True))
    weight = plain.up.weight + change - site.B0 @ site.A0
    torch.testing.assert_close(host(X), nn.functional.linear(X, weight, plain.up.bias))
    torch.testing.assert_close(site.delta(), weight - plain.up.weight)
    torch.testing.assert_close(export(host)(X), host(X))


# Prototypes and merging.

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, dtype=torch.float64, generator=generator)


def test_held_out_cosines_are_those_of_other_rows():
    cosines = held_out_cosines(features(), LABELS, 3)
    for row in range(len(LABELS)):
        rest = torch.arange(len(LABELS)) != row
        centres = prototypes(features()[rest], LABELS[rest], 3)
        expected = cosine_logits(features()[row : row + 1], centres)[0]
        own = LABELS[row]
        torch.testing.assert_close(cosines[row, own], expected[own])
    whole = cosine_logits(features(), prototypes(features(), LABELS, 3))
    others = torch.ones_like(cosines, dtype=torch.bool).scatter(1, LABELS[:, None], False)
    torch.testing.assert_close(cosines[others], whole[others])


def test_separation_is_the_published_score():
    cosines = held_out_cosines(features(), LABELS, 3)
    intra = [cosines[n == LABELS, n].mean() for n in range(3)]
    inter = [cosines[n == LABELS][:, [m for m in range(3) if m != n]].mean() for n in range(3)]
    expected = 0.6 * sum(intra) / 3 - 0.4 * sum(inter) / 3
    assert separation(cosines, LABELS) == pytest.approx(float(expected))


def test_the_published_merge_averages_the_best_two():
    weights = published_weights([0.1, 0.4, 0.3])
    assert weights == pytest.approx([0, 1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(0.1))])
