"""Properties of every posterior over adapter weights, from training to the saved model."""

from dataclasses import replace

import pytest
import torch
from refusal import refused
from small_fits import calls_of_layers, equal_states, fresh, rows
from test_fit import KilledError, die_after

from bayeslora import IVON, MLE, SWAG, TFB, BLoB, CLoRA, MCDropout
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.engine.build import build_network
from bayeslora.engine.network import prepare
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import answer, num_passes
from bayeslora.posteriors.registry import POSTERIORS
from bayeslora.posteriors.weights import swag
from bayeslora.posteriors.weights.swag import Snapshots

LORA = LoRA(r=2, num_layers=2)
POLAR = PoLAR(r=2, num_layers=2)
FEWER = {"swag": {"start": 0.0}, "tfb": {"num_search_samples": 2, "num_steps": 2}}
"""Options that make a method's fit short."""
DRAWN = [cls for cls in POSTERIORS.values() if cls.is_sampled and not issubclass(cls, MCDropout)]
RECIPES = {
    **{cls.name: (LORA, cls(num_samples=3, **FEWER.get(cls.name, {}))) for cls in DRAWN},
    "polar-swag": (POLAR, SWAG(num_samples=3)),
    "polar-blob": (POLAR, BLoB(num_samples=3)),
    "polar-ivon": (POLAR, IVON(num_samples=3, beta2=0.9, ess=1e4)),
    "polar-clora": (POLAR, CLoRA(num_samples=3)),
    "polar-tfb": (POLAR, TFB(num_samples=3, num_search_samples=2, num_steps=2)),
}
every = pytest.mark.parametrize("recipe", RECIPES)


def begin(backbone, recipe, **options):
    adapter, posterior = RECIPES[recipe]
    return fresh(backbone, posterior, adapter, **options)


@pytest.fixture(scope="module")
def fitted(encoder, tmp_path_factory):
    """Return a cached function from a recipe to its fit."""
    known = {}

    def get(recipe):
        if recipe not in known:
            fit = begin(encoder, recipe)
            known[recipe] = fit, fit.run(tmp_path_factory.mktemp(recipe))
        return known[recipe]

    return get


def logits(fit, **options):
    texts = prepare(fit.network.encoder, rows(12, 5), progress=False)
    return next(answer(fit.network, [], fit.posterior, texts, **options)).logits


@every
def test_draws_spread_and_follow_from_the_seed(fitted, recipe):
    fit, _ = fitted(recipe)
    output = logits(fit)
    assert output.samples.shape == (3, 12, 3)
    assert float(output.variance.min()) > 0
    assert torch.equal(logits(fit).samples, output.samples)
    assert not torch.equal(logits(fit, seed=1).samples, output.samples)
    # A larger number of draws begins with the same ones.
    assert torch.equal(logits(fit, num_samples=5).samples[:3], output.samples)


@every
def test_no_samples_is_the_mean_network(fitted, recipe):
    fit, _ = fitted(recipe)
    mean = logits(fit, num_samples=0)
    assert mean.is_point
    texts = prepare(fit.network.encoder, rows(12, 5), progress=False)
    plain = next(answer(fit.network, [], MLE(), texts)).logits
    assert torch.equal(mean.mean, plain.mean)
    fit.posterior, posterior = replace(fit.posterior, num_samples=0), fit.posterior
    assert torch.equal(logits(fit).mean, mean.mean)
    fit.posterior = posterior


@every
def test_a_draw_costs_a_pass_of_the_adapted_layers_only(fitted, recipe):
    fit, _ = fitted(recipe)
    assert [num_passes(fit.posterior, count, 1) for count in (None, 7, 0)] == [3, 7, 1]
    texts = prepare(fit.network.encoder, rows(12, 5), progress=False)
    assert calls_of_layers(fit, texts) == ([0, 3, 3], 3 * 12)


@every
def test_an_interrupted_fit_ends_as_if_it_had_never_stopped(encoder, tmp_path, recipe):
    """The encoder has dropout; the draws of training must be restored as well."""
    whole = begin(encoder, recipe)
    expected = whole.run(tmp_path / "whole", validates=True)
    with pytest.raises(KilledError):
        begin(encoder, recipe).run(tmp_path / "again", validates=True, on_epoch=die_after(2))
    resumed = begin(encoder, recipe)
    torch.manual_seed(12345)
    assert resumed.run(tmp_path / "again", validates=True) == expected
    assert equal_states(whole.network.trained_state(), resumed.network.trained_state())
    assert torch.equal(logits(whole).samples, logits(resumed).samples)


def test_validation_rows_choose_no_epoch_of_swag(encoder, tmp_path):
    fit = begin(encoder, "swag", epochs=3, patience=1)
    result = fit.run(tmp_path, validates=True)
    assert result.best_epoch == 3
    assert result.posterior["num_snapshots"] == 12
    assert result.posterior["weight_std"] > 0


def test_the_learning_rate_of_swag_is_constant(encoder, tmp_path):
    """There are 8 steps, too few for a warm-up."""
    fit = fresh(encoder, SWAG(), LORA)
    rates = []

    class Rates(Snapshots):
        def after_step(self, step, optimizer):
            group = optimizer.param_groups[0]
            rates.append(group["lr"] / group["initial_lr"])
            super().after_step(step, optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swag, "Snapshots", Rates)
        fit.run(tmp_path)
    assert rates == [1] * 8


def test_ivon_has_the_only_weight_decay(encoder):
    for adapter in (replace(LORA, weight_decay=0.5), replace(POLAR, weight_decay=0.5)):
        with refused("clash"):
            build_network(encoder, Plan(adapter=adapter, posterior=IVON(), max_length=32), 3)
