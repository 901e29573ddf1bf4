"""A benchmark's directions from the loss: the most that orthonormal factors can capture of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused
from small_fits import equal_states, fresh
from test_fit import KilledError, die_after
from torch.nn.functional import cross_entropy

from bayeslora import MLE, VBLL
from bayeslora.adapters.polar import PoLAR, random_factors
from bayeslora.adapters.registry import CATALOGUE
from bayeslora.engine.training import adapter_start
from bayeslora.engine.training.adapter_start import begin_adapter
from benchmarks.label_budget.gradient_start import GradientPoLAR, gradient_factors

GRADIENT = GradientPoLAR(r=4, num_layers=2)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CATALOGUE.registered, GRADIENT.name, GradientPoLAR)
        yield


def started(backbone, adapter=GRADIENT):
    fit = fresh(backbone, MLE(), adapter)
    begin_adapter(fit.network, fit.adapter, fit.posterior, fit.train, seed=0)
    return fit


@given(out=st.integers(2, 9), wide=st.integers(2, 9), seed=st.integers(0, 99), data=st.data())
def test_no_orthonormal_factors_catch_more_of_the_gradient(out, wide, seed, data):
    r = data.draw(st.integers(1, min(out, wide)))
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(out, wide, generator=generator, dtype=torch.float64)

    def caught(factors):
        return float((factors.B.double().mT @ gradient @ factors.A.double().mT).square().sum())

    ours = gradient_factors(gradient, r)
    eye = torch.eye(r)
    for product in (ours.A @ ours.A.mT, ours.B.mT @ ours.B):
        torch.testing.assert_close(product, eye, atol=1e-6, rtol=0)
    best = float(torch.linalg.svdvals(gradient)[:r].square().sum())
    assert caught(ours) == pytest.approx(best, rel=1e-5)
    assert caught(random_factors(out, wide, r, generator)) <= best * (1 + 1e-5)


def test_a_rank_above_the_layers_size_is_refused():
    with refused("input"):
        gradient_factors(torch.ones(3, 2), 3)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_the_change_is_zero_and_the_directions_are_those_of_the_loss(request, kind):
    """Autograd recomputes the gradient on the plain backbone, in one padded batch."""
    backbone = request.getfixturevalue(kind)
    fit = started(backbone)
    network, rows = fit.network, list(range(len(fit.train)))
    features = network.encoder(fit.train.collate(rows)).detach()
    size = features.double().square().sum(-1).mean().sqrt().float()
    weight = adapter_start._last_layer(
        adapter_start.Features(features / size, fit.train.labels), len(network.head.mean_weight)
    )
    for site in network.sites:
        assert torch.count_nonzero(site.delta()) == 0
        site.weight.requires_grad_(True)
    logits = network.encoder(fit.train.collate(rows)) @ (weight / size).mT
    cross_entropy(logits, fit.train.labels).backward()
    for site in network.sites:
        expected = gradient_factors(site.weight.grad, 4)
        for actual, target in ((site.A.weight, expected.A), (site.B.weight, expected.B)):
            # Rounding may rotate directions with nearly equal singular values, but not their span.
            close = actual if actual.shape[0] <= actual.shape[1] else actual.mT
            other = target if target.shape[0] <= target.shape[1] else target.mT
            cosines = torch.linalg.svdvals(close @ other.mT)
            torch.testing.assert_close(cosines, torch.ones(4), atol=1e-3, rtol=0)


def test_nothing_frozen_stays_trainable(decoder):
    fit = started(decoder)
    for site in fit.network.sites:
        assert not site.weight.requires_grad
        assert site.weight.grad is None
        assert all(value.grad is None for value in site.trainable().values())


def test_the_first_step_goes_further_down_than_from_anywhere(decoder):
    """The purpose of the start: the core's first gradient has most of the full gradient's norm."""

    def norm(fit):
        fit.network.train()
        scale = fit.network.encoder(fit.train.collate(range(8))).detach().norm()
        logits = fit.network.encoder(fit.train.collate(range(8)))[:, :3] / scale
        cross_entropy(logits, fit.train.labels[:8]).backward()
        return sum(float(site.core.weight.grad.square().sum()) for site in fit.network.sites)

    assert norm(started(decoder)) > norm(started(decoder, PoLAR(r=4, num_layers=2)))


def test_resumed_from_any_epoch_the_fit_is_the_same(decoder, tmp_path):
    def begin():
        return fresh(decoder, VBLL(), GRADIENT)

    whole = begin()
    whole.run(tmp_path / "whole")
    with pytest.raises(KilledError):
        begin().run(tmp_path / "again", on_epoch=die_after(2))
    resumed = begin()
    resumed.run(tmp_path / "again")
    assert equal_states(whole.network.trained_state(), resumed.network.trained_state())
