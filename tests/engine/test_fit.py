"""Whole fits: what they keep, what they report, and how they resume after an interruption."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from refusal import refused
from small_fits import GRADIENT, equal_states, fresh

from bayeslora import MLE, VBLL, Laplace, TemperatureScaling
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import drift
from bayeslora.adapters.polar import PoLAR
from bayeslora.engine import loop as fit_module
from bayeslora.engine.final_fit import final_fit, fit_last_layer, validation_metrics
from bayeslora.engine.loop import epochs_without_gain
from bayeslora.engine.network import feature_rows
from bayeslora.errors import DivergedError
from bayeslora.links import link_probabilities, nll
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE

RECIPES = {
    "polar-vbll": (PoLAR(r=4, num_layers=2), VBLL()),
    "landing-laplace": (PoLAR(r=4, num_layers=2, constraint="landing"), Laplace()),
    "lora-temperature": (LoRA(r=2, num_layers=2, dropout=0.2), TemperatureScaling()),
}


class KilledError(Exception):
    """Stands in for the end of the process."""


def die_after(epoch):
    def hook(number, _):
        if number == epoch:
            raise KilledError

    return hook


@pytest.mark.parametrize(
    ("recipe", "validates"), [*((name, True) for name in RECIPES), ("polar-vbll", False)]
)
def test_an_interrupted_fit_ends_as_if_it_had_never_stopped(encoder, tmp_path, recipe, validates):
    """The encoder has dropout, so the row order and the random state must be restored."""
    adapter, posterior = RECIPES[recipe]

    def begin():
        return fresh(encoder, posterior, adapter, epochs=3)

    whole = begin()
    expected = whole.run(tmp_path / "whole", validates=validates)
    with pytest.raises(KilledError):
        begin().run(tmp_path / "again", validates=validates, on_epoch=die_after(2))
    resumed = begin()
    torch.manual_seed(12345)
    result = resumed.run(tmp_path / "again", validates=validates)
    assert equal_states(whole.network.trained_state(), resumed.network.trained_state())
    assert result == expected
    assert len(result.history) == 3


def test_the_ends_of_stages_survive_an_interruption(encoder, tmp_path):
    def begin():
        return fresh(encoder, epochs=6, choose_epochs=True)

    expected = begin().run(tmp_path / "whole", fit_last=False)
    assert len(expected.stages) == len({1, 2, 6})
    with pytest.raises(KilledError):
        begin().run(tmp_path / "again", fit_last=False, on_epoch=die_after(4))
    result = begin().run(tmp_path / "again", fit_last=False)
    assert len(result.stages) == len(expected.stages)
    for state, other in zip(result.stages, expected.stages, strict=True):
        assert equal_states(state, other)
    means = [state["head.mean"] for state in result.stages]
    assert not torch.equal(means[0], means[1])
    assert not torch.equal(means[1], means[2])


def scripted(monkeypatch, values):
    """Patch validation to report these NLLs, one per epoch, whatever the network does."""
    monkeypatch.setattr(
        fit_module, "validation_metrics", lambda _: {"nll": next(values), "accuracy": 0.5}
    )


def test_early_stopping_keeps_the_best_epoch(encoder, tmp_path, monkeypatch):
    scripted(monkeypatch, iter([0.9, 0.5, 0.7, 0.6, 0.1]))
    states = {}
    fit = fresh(encoder, MLE(), epochs=5, patience=2)
    result = fit.run(
        tmp_path,
        validates=True,
        on_epoch=lambda epoch, network: states.update({epoch: network.trained_state()}),
    )
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3, 4]
    assert [entry["validation_nll"] for entry in result.history] == [0.9, 0.5, 0.7, 0.6]
    assert result.best_epoch == 2
    assert equal_states(fit.network.trained_state(), states[2])


@pytest.mark.parametrize(
    ("losses", "expected"),
    # Only a lower value is an improvement.
    [([], 0), ([1.0], 0), ([1.0, 2.0, 1.5], 2), ([1.0, 1.0], 1), ([2.0, 1.0], 0)],
)
def test_epochs_without_gain(losses, expected):
    assert epochs_without_gain([{"validation_nll": loss} for loss in losses]) == expected
    assert epochs_without_gain([{"loss": loss} for loss in losses]) == 0


@pytest.mark.parametrize("constraint", ["retraction", "landing"])
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_polar_factors_stay_orthonormal_and_the_record_says_so(request, tmp_path, name, constraint):
    adapter = PoLAR(r=4, num_layers=2, constraint=constraint)
    fit = fresh(request.getfixturevalue(name), VBLL(), adapter)
    result = fit.run(tmp_path)
    assert max(drift(site) for site in fit.network.sites) <= 1e-5
    assert result.adapter["drift"] <= 1e-5
    assert result.adapter["num_sites"] == 4
    assert 1 <= result.adapter["stable_rank"] <= 4


def test_training_does_not_choose_a_prior_scale(encoder, tmp_path, monkeypatch):
    """Every step uses the default scale; it is chosen once, after the adapter is trained."""
    fit = fresh(encoder, replace(GRADIENT, prior_scale="empirical-bayes"))
    head, seen = fit.network.head, []
    loss = type(head).loss
    monkeypatch.setattr(
        type(head),
        "loss",
        lambda self, *args: seen.append(self.prior_variance) or loss(self, *args),
    )
    result = fit.run(tmp_path, validates=True)
    assert set(seen) == {DEFAULT_PRIOR_SCALE**2}
    assert head.prior_variance == DEFAULT_PRIOR_SCALE**2
    assert result.posterior["prior_scale"] != DEFAULT_PRIOR_SCALE


def test_validation_leaves_the_head_as_training_left_it(encoder, tmp_path):
    fit = fresh(encoder, VBLL())
    fit.run(tmp_path, fit_last=False)
    before = fit.network.trained_state()
    metrics = validation_metrics(fit.training(validates=True))
    assert equal_states(before, fit.network.trained_state())
    # The metric is the NLL of a fit under the training prior.
    other = fresh(encoder, VBLL(prior_scale=DEFAULT_PRIOR_SCALE))
    other.network.load_trained_state(before)
    last = final_fit(other.network, other.plan, other.train, None)
    train = feature_rows(other.network, other.train)
    fit_last_layer(other.network, other.plan, last, train, None)
    rows = feature_rows(other.network, other.validation)
    drawing = other.posterior.drawing
    probs = link_probabilities(other.network.head.predict(rows), **drawing).probs
    assert metrics["nll"] == pytest.approx(nll(probs, rows.targets), rel=1e-9)


def test_without_validation_the_last_epoch_is_kept(encoder, tmp_path):
    fit = fresh(encoder, MLE(), epochs=3)
    last = {}
    result = fit.run(tmp_path, on_epoch=lambda _, network: last.update(network.trained_state()))
    assert result.best_epoch == 3
    assert equal_states(fit.network.trained_state(), last)
    assert all("validation_nll" not in entry for entry in result.history)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_the_same_seed_gives_the_same_fit_and_another_does_not(request, tmp_path, name):
    host = request.getfixturevalue(name)

    def state(seed, folder):
        fit = fresh(host, seed=seed)
        fit.run(tmp_path / folder)
        return fit.network.trained_state()

    first = state(3, "a")
    torch.manual_seed(999)
    assert equal_states(first, state(3, "b"))
    assert not equal_states(first, state(4, "c"))


def test_a_fit_that_diverges_says_so(encoder, tmp_path):
    fit = fresh(encoder, MLE(), LoRA(r=2, num_layers=2, lr=1e12))
    with pytest.raises(DivergedError):
        fit.run(tmp_path)


def test_adapters_that_change_no_feature_are_refused(encoder, tmp_path):
    """The pooler comes after the states that features are computed from."""
    fit = fresh(encoder, MLE(), LoRA(r=2, target_modules=("pooler.dense",)))
    with refused("input", "target_modules"):
        fit.run(tmp_path)


def test_a_fit_leaves_the_callers_random_numbers_alone(encoder, tmp_path):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    fresh(encoder, MLE(), epochs=1).run(tmp_path)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
