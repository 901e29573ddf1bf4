"""Markov chains against quadrature and the density that they sample."""

import logging
import math

import pyro
import torch

from bayeslora import NUTS
from bayeslora.links import link_probabilities
from bayeslora.posteriors.last_layer import nuts
from bayeslora.posteriors.last_layer.nuts import Chains, Target, run_chains
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import toy

F64 = torch.float64
TAU = 2.0
QUICK = {"num_chains": 2, "num_warmup": 30, "num_samples": 20}


def fitted(features, labels, classes=3, seed=0, **options):
    head = build_head(NUTS(prior_scale=TAU, **options), features.shape[1], classes, seed=seed)
    head.fit(Features(features, labels))
    return head


def on_grid(features, labels):
    """Return grid points [G, 2] of θ_1 − θ_0 ~ N(0, 2τ²I) for two classes, and weights [G]."""
    axis = torch.linspace(-12, 12, 401, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    signs = 2.0 * labels - 1
    log_likelihood = torch.nn.functional.logsigmoid(signs * (grid @ features.T)).sum(1)
    return grid, (log_likelihood - grid.square().sum(1) / (4 * TAU**2)).softmax(0)


def test_two_classes_against_a_grid():
    features, labels = toy(rows=30, size=2, classes=2, seed=1)
    other = toy(rows=20, size=2, classes=2, seed=2)[0]
    grid, weights = on_grid(features, labels)
    options = {"num_chains": 2, "num_warmup": 150, "num_samples": 500}
    head = fitted(features, labels, 2, **options)
    samples = head.predict(Features(other)).samples
    effective = min(head.report()["min_ess"], 1000)
    assert effective > 150
    # Five standard errors of a mean, and of the variance of a nearly normal variable.
    differences = samples[..., 1] - samples[..., 0]
    exact = grid @ other.T
    mean = weights @ exact
    variance = weights @ (exact - mean).square()
    error = 5 / math.sqrt(effective)
    assert ((differences.mean(0) - mean).abs() < error * variance.sqrt()).all()
    assert ((differences.var(0) / variance - 1).abs() < error * math.sqrt(2)).all()
    probs = exact.sigmoid()
    expected = weights @ probs
    spread = (weights @ (probs - expected).square()).sqrt()
    predicted = link_probabilities(head.predict(Features(other))).probs[:, 1]
    assert ((predicted - expected).abs() < error * spread).all()


def test_the_mode_is_stationary_and_the_scale_is_near_that_of_the_posterior():
    features, labels = toy(rows=80, size=4, seed=2)
    target = Target.of(features, labels, torch.zeros(3, 4, dtype=F64), 0.25)
    z = torch.zeros_like(target.mode).requires_grad_()
    target.potential(z).backward()
    assert z.grad.abs().max() < 1e-3
    hessian = torch.autograd.functional.hessian(target.potential, torch.zeros_like(target.mode))
    values = torch.linalg.eigvalsh(hessian.reshape(8, 8))
    # Without whitening, the largest is 40 times the smallest.
    assert values[0] > 0.25
    assert values[-1] < 4


def test_the_potential_is_the_negative_log_posterior():
    features, labels = toy(rows=30, size=4, seed=2)
    target = Target.of(features, labels, torch.zeros(3, 4, dtype=F64), 0.25)
    z = torch.randn(5, 2, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    weights = target.class_weights(z)
    direct = torch.stack(
        [
            torch.nn.functional.cross_entropy(features @ weight.T, labels, reduction="sum")
            + 0.125 * weight.square().sum()
            for weight in weights
        ]
    )
    torch.testing.assert_close(target.potential(z), direct, atol=1e-10, rtol=0)
    assert weights.sum(1).abs().max() < 1e-12


def test_the_seed_decides_and_nothing_global_changes():
    features, labels = toy()
    state = torch.get_rng_state()
    pyro.clear_param_store()
    first = fitted(features, labels, seed=3, **QUICK)
    torch.rand(3)
    again, other = (fitted(features, labels, seed=seed, **QUICK) for seed in (3, 4))
    assert torch.equal(first.draws, again.draws)
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.draws, other.draws)
    assert len(pyro.get_param_store()) == 0
    torch.set_rng_state(state)
    fitted(features, labels, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)


def test_chains_that_differ_or_diverge_are_said(caplog, monkeypatch):
    features, labels = toy()
    with caplog.at_level(logging.WARNING):
        head = fitted(features, labels, num_chains=2, num_warmup=4, num_samples=20)
    assert "R-hat is" in caplog.text
    assert head.report()["max_rhat"] > 1.01

    def diverging(*args):
        chains = run_chains(*args)
        return Chains(chains.draws, chains.energies, 3)

    monkeypatch.setattr(nuts, "run_chains", diverging)
    caplog.clear()
    assert fitted(features, labels, **QUICK).report()["divergences"] == 3
    assert "3 steps of the chains diverged; raise target_accept" in caplog.text


def test_a_trained_mean_is_kept_until_there_are_draws():
    features, labels = toy()
    head = build_head(NUTS(**QUICK), 4, 3)
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    head.set_mean(start)
    assert torch.equal(head.mean_weight, start)
    assert head.report() == {"fitted": "no"}
    head.fit(Features(features, labels))
    torch.testing.assert_close(
        head.predict(Features(features)).mean,
        features @ head.mean_weight.double().T,
        atol=1e-5,
        rtol=0,
    )
