"""The study `parts`: every exchanged part against what it is meant to compute."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny import tiny_llama, toy_rows
from torch import nn

from bayeslora import VBLL, Predictions
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.polar.stiefel import random_factors
from bayeslora.adapters.registry import CATALOGUE as ADAPTERS
from bayeslora.backbones.load import load_backbone
from bayeslora.engine.data import read_rows
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.last_layer.vbll import bounds
from bayeslora.posteriors.last_layer.vbll.independent import DiagonalBlocks
from bayeslora.posteriors.registry import CATALOGUE as POSTERIORS
from bayeslora.tasks.columns import DataColumns
from benchmarks.lib.pools import Pools
from benchmarks.parts.__main__ import fitted, register_variants, scores, soups
from benchmarks.parts.adapters import (
    Averaging,
    PoLARVariant,
    SpectralCores,
    eva_factors,
    free_factors,
    orthonormal_factors,
    weight_change,
)
from benchmarks.parts.arms import ARMS, ENSEMBLE, SOUP, SOUP_OF_MEANS
from benchmarks.parts.heads import VBLLVariant


def site(seed=0, r=3, orthonormal=True):
    generator = torch.Generator().manual_seed(seed)
    factors = random_factors(7, 5, r, generator)._replace(
        core=torch.randn(r, r, generator=generator)
    )
    if not orthonormal:
        factors = factors._replace(core=None, orthonormal=False)
    return LowRank("layer", nn.Linear(5, 7), factors, 2.0)


@pytest.mark.parametrize("bound", ["jensen", "knowles_minka"])
def test_running_sums_reach_the_closed_form(bound):
    torch.manual_seed(0)
    values, labels = torch.randn(40, 6) / 6**0.5, torch.randint(3, (40,))
    head = VBLLVariant(bound=bound).make_head(6, 3)
    head.set_mean(torch.randn(3, 6))
    rows = Features(values, labels)
    for _ in range(400):  # .95^400 is 1e-9
        head.loss(rows, 200)
    variance = head.covariance.of_logits(values)
    mean = rows.logits(head.mean.detach())
    tilt = torch.zeros_like(mean) if bound == "jensen" else bounds.best_tilt(mean, variance)
    weights = 200 / 40 * bounds.curvature(mean, variance, tilt)
    optimum = DiagonalBlocks(values.double(), weights.double(), 1 / head.prior_variance)
    torch.testing.assert_close(variance.double(), optimum.train_covariance, rtol=1e-4, atol=0)


def test_fast_deviations_start_as_others_and_move_five_times_as_far():
    usual, fast = (config.make_head(4, 2) for config in (VBLL(), VBLLVariant(deviations="fast")))
    torch.testing.assert_close(fast.covariance.scale, usual.covariance.scale)
    with torch.no_grad():
        fast.spread += 0.01
        usual.spread += 0.05
    torch.testing.assert_close(fast.covariance.scale, usual.covariance.scale)


def test_factors_of_a_change_of_rank_r_have_that_change():
    change = weight_change(site(0))
    for target, make in (
        (site(1), orthonormal_factors),
        (site(2, orthonormal=False), free_factors),
    ):
        target.begin(make(change, target))
        torch.testing.assert_close(weight_change(target), change, rtol=0, atol=1e-5)


def test_eva_takes_the_inputs_directions_of_most_variance():
    directions = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3)))[0]
    moment = (directions * torch.tensor([1.0, 9.0, 4.0, 25.0, 16.0])) @ directions.T
    factors = eva_factors(site(r=2), moment)
    torch.testing.assert_close(
        (factors.A @ directions[:, [3, 4]]).abs(), torch.eye(2), rtol=0, atol=1e-5
    )
    assert not factors.core.any()


def test_a_spectral_step_turns_every_direction_by_as_much():
    layer = site()
    core = layer.core.weight
    before = core.detach().clone()
    factors = [layer.A.weight, layer.B.weight]
    optimizer = SpectralCores(factors, lr=0.1, cores=[core])
    gradient = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    core.grad = gradient
    with torch.no_grad():
        core += 1  # AdamW's step, which comes first and is taken back
    optimizer.step()
    U, _, Vh = torch.linalg.svd(gradient)
    torch.testing.assert_close(before - core.detach(), 0.1 * 3**0.5 * (U @ Vh), rtol=0, atol=1e-5)


class _Head(nn.Module):
    trained_mean: ClassVar = torch.zeros(2, 3)

    def set_mean(self, mean):
        self.trained_mean = mean


@pytest.mark.parametrize(("average", "decay", "first"), [("epoch", 1.0, 3), ("ema", 0.95, 1)])
def test_averages_are_those_of_the_changes(average, decay, first):
    layer, head = site(r=5), _Head()
    callback = Averaging(SimpleNamespace(sites=[layer], head=head), average)
    arguments = SimpleNamespace(num_train_epochs=2)
    seen = []
    for step in range(1, 5):
        layer.begin(_factors(step))
        head.trained_mean = torch.full((2, 3), float(step))
        seen.append((decay ** (4 - step) * (step >= first), weight_change(layer), step))
        state = SimpleNamespace(global_step=step, max_steps=4)
        callback.on_step_end(arguments, state, None)
    callback.on_train_end(arguments, state, None)
    total = sum(weight for weight, *_ in seen)
    mean = sum(weight * change for weight, change, _ in seen) / total
    torch.testing.assert_close(weight_change(layer), mean, rtol=0, atol=1e-5)
    step = sum(weight * step for weight, _, step in seen) / total
    torch.testing.assert_close(head.trained_mean, torch.full((2, 3), step))


def _factors(seed):
    generator = torch.Generator().manual_seed(seed)
    return random_factors(7, 5, 5, generator)._replace(core=torch.randn(5, 5, generator=generator))


def test_the_best_scale_is_that_of_a_scan():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 3)) * 4, rng.integers(3, size=200)
    logits[np.arange(200), labels] += 2
    row = scores(Predictions.from_arrays(logits, labels, kind="logits"))
    scan = [
        float(nn.functional.cross_entropy(torch.tensor(a * logits), torch.tensor(labels)))
        for a in np.exp(np.linspace(-2, 2, 2001))
    ]
    assert row["nll_scaled"] == pytest.approx(min(scan), abs=1e-6)
    assert row["nll_scaled"] < row["nll"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for catalogue in (ADAPTERS, POSTERIORS):
            patch.setattr(catalogue, "registered", dict(catalogue.registered))
        register_variants()
        yield _toy(tmp_path_factory)


def _toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    backbone = load_backbone(str(tiny_llama(folder)), dtype="float32", device="cpu")
    train, test = (
        read_rows(toy_rows(count, seed), DataColumns()) for count, seed in ((24, 0), (30, 1))
    )
    return backbone, train, Pools(train=train, score=test, ood={})


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_fits(toy, name):
    backbone, train, pools = toy
    clf, _ = fitted(backbone, ARMS[name], train, 0)
    assert np.isfinite(scores(clf.predict(pools.score))["nll"])


def test_a_start_from_changes_is_exact(toy):
    backbone, train, _ = toy
    arm = ARMS["an epoch of LoRA first"]
    network = fitted(backbone, arm, train, 0)[0]._known().network
    changes = PoLARVariant.changes
    for layer in network.sites:
        arm.adapter.begin(SimpleNamespace(sites=[layer]))
        assert changes[layer.name].any()
        torch.testing.assert_close(weight_change(layer), changes[layer.name], rtol=0, atol=1e-6)


def test_the_soup_of_equal_fits_is_that_fit(toy, monkeypatch):
    backbone, train, pools = toy
    once = fitted(backbone, ARMS["default"], train, 0)[0]
    monkeypatch.setattr("benchmarks.parts.__main__.fitted", lambda *_: (once, 0.0))
    plain = scores(once.predict(pools.score))
    rows = soups(backbone, train, pools, 0)
    for arm in (ENSEMBLE, SOUP_OF_MEANS):
        assert rows[arm]["nll"] == pytest.approx(plain["nll"], rel=1e-4)
    assert rows[SOUP]["kept"] == pytest.approx(1)
