"""The weight of the KL in each step, and its place in the schedule."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fits import fresh

from bayeslora import BLoB
from bayeslora.adapters.lora import LoRA
from bayeslora.posteriors.weights.draws import KLSteps, cyclic_weight


@given(num_train=st.integers(1, 20_000), batch_size=st.integers(1, 64))
def test_the_weights_of_a_cycle_double_and_sum_to_one(num_train, batch_size):
    weight = cyclic_weight(num_train, batch_size)
    length = max(1, int(100 * num_train ** (3.14159 / 8) / batch_size))
    cycle = [weight(step) for step in range(length)]
    assert math.fsum(cycle) == pytest.approx(1, rel=1e-12)
    assert cycle[-1] == pytest.approx(0.5 / (1 - 0.5**length))
    if length > 1:
        assert cycle[-1] == 2 * cycle[-2]
    assert weight(length) == cycle[0]


@pytest.mark.parametrize(
    ("num_train", "length"), [(640, 316), (1119, 393), (2251, 518), (4957, 706), (9427, 909)]
)
def test_cycles_have_the_published_lengths(num_train, length):
    """In batches of 4; the last weight of a cycle is the largest."""
    weight = cyclic_weight(num_train, 4)
    assert weight(length - 1) == pytest.approx(0.5)
    assert weight(length) < 1e-80


def test_a_step_follows_the_adapters_schedule():
    """Its rate is kl_lr times the relative learning rate times the weight."""
    taken = []
    weights = SimpleNamespace(kl_step=taken.append)
    steps = KLSteps(weights, 0.01, lambda step: 1 / (step + 2))
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
