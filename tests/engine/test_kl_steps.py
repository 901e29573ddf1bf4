"""The weight of the KL in each step, and its place in the schedule."""

from types import SimpleNamespace

import pytest
from small_fits import fresh

from bayeslora import BLoB
from bayeslora.adapters.lora import LoRA
from bayeslora.posteriors.weights.draws import KLSteps


def test_a_step_follows_the_adapters_schedule():
    """Its rate is kl_lr times the relative learning rate / N."""
    taken = []
    weights = SimpleNamespace(kl_step=taken.append)
    steps = KLSteps(weights, 0.01, 5)
    optimizer = SimpleNamespace(param_groups=[{"lr": 2e-4, "initial_lr": 1e-3}, {"lr": 1}])
    steps.after_step(3, optimizer)
    assert taken == [pytest.approx(0.01 * 0.2 / 5)]


def test_each_step_of_training_is_followed_by_one_on_the_kl(encoder, tmp_path, monkeypatch):
    fit = fresh(encoder, BLoB(kl_lr=0.5), LoRA(r=2, num_layers=2), epochs=2)
    taken = []
    monkeypatch.setattr(fit.network.weights, "kl_step", taken.append)
    fit.run(tmp_path)
    # 30 rows in batches of 8; cosine from kl_lr / N down to nearly zero.
    assert len(taken) == 8
    assert max(taken) == taken[0] == pytest.approx(0.5 / 30)
    assert taken == sorted(taken, reverse=True)
    assert taken[-1] < 0.1 * taken[0]
