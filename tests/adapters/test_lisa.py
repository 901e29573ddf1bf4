"""The sampling policy alone: draws, trainable layers and optimiser state."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayeslora.adapters.base import LayerSampling
from bayeslora.adapters.layer_sampling import Group, LayerSampler, draw, inclusion

STATES = ("drop", "keep", "offload")


class Tower(nn.Module):
    """A first and a last layer around five layers to sample from."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(5))
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.last(x)


def tower():
    torch.manual_seed(0)
    return Tower()


def groups(model):
    layers = [Group(f"layers.{n}", tuple(item.parameters())) for n, item in enumerate(model.layers)]
    return [*layers, Group("head", tuple(model.last.parameters()), always=True)]


def policy(model, seed=1, interval=3, **options):
    return LayerSampler(LayerSampling(interval=interval, **options), groups(model), interval, seed)


def optimizer_of(model, **options):
    model.first.requires_grad_(False)
    parameters = [item for group in groups(model) for item in group.params]
    return torch.optim.AdamW(parameters, lr=0.05, **options)


def train(model, lisa, optimizer, steps, begin=0):
    """Train on data that depends on the step alone; return the switches."""
    switches = []
    for step in range(begin, steps):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator)
        if lisa is not None:
            switches.append(lisa.before_step(step, optimizer))
        (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return switches


def equal(model, other):
    first, second = model.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", ["uniform", "cycle", "fixed"])
def test_the_drawn_layers_and_the_head_change_and_nothing_else(state, mode):
    model = tower()
    start = copy.deepcopy(model)
    lisa = policy(model, mode=mode, state=state)
    switches = train(model, lisa, optimizer_of(model, weight_decay=0.1), 9)
    drawn = {number for block in range(3) for number in lisa.draw(block)}
    names = {name for switch in switches if switch for name in switch}
    assert names == {f"layers.{number}" for number in drawn}
    for number, layer in enumerate(model.layers):
        assert equal(layer, start.layers[number]) == (number not in drawn)
    assert equal(model.first, start.first)
    assert not equal(model.last, start.last)
    assert (mode == "fixed") == (len(drawn) == 2)


def test_all_layers_active_is_plain_adamw_step_for_step():
    model, other = tower(), tower()
    lisa = policy(model, num_active=5, state="keep", interval=2)
    first, second = optimizer_of(model, weight_decay=0.1), optimizer_of(other, weight_decay=0.1)
    for step in range(7):
        train(model, lisa, first, step + 1, begin=step)
        train(other, None, second, step + 1, begin=step)
        assert equal(model, other)


@pytest.mark.parametrize("mode", ["uniform", "cycle"])
def test_each_layer_moves_in_its_blocks_alone(mode):
    model = tower()
    lisa, optimizer = policy(model, mode=mode), optimizer_of(model)
    for block in range(8):
        before = copy.deepcopy(model)
        train(model, lisa, optimizer, 3 * block + 3, begin=3 * block)
        moved = [not equal(model.layers[n], before.layers[n]) for n in range(5)]
        assert moved == [n in lisa.draw(block) for n in range(5)]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", ["uniform", "cycle", "weighted"])
def test_stopped_and_resumed_at_any_step_the_weights_are_the_same(state, mode):
    options = {"mode": mode, "state": state}
    options |= {"weights": (1.0, 2.0, 3.0, 1.0, 1.0)} if mode == "weighted" else {}
    whole = tower()
    train(whole, policy(whole, **options), optimizer_of(whole, weight_decay=0.1), 11)
    for stop in range(11):
        model = tower()
        optimizer = optimizer_of(model, weight_decay=0.1)
        train(model, policy(model, **options), optimizer, stop)
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        stored = torch.load(file, weights_only=True)
        torch.manual_seed(99)
        again = tower()
        other = optimizer_of(again, weight_decay=0.1)
        again.load_state_dict(stored["model"])
        other.load_state_dict(stored["optimizer"])
        train(again, policy(again, **options), other, 11, begin=stop)
        assert equal(again, whole), stop


@pytest.mark.parametrize("mode", ["uniform", "cycle", "weighted", "fixed"])
def test_draws_follow_from_seed_and_block_alone(mode):
    weights = (3.0, 1.0, 1.0, 2.0, 1.0) if mode == "weighted" else None
    options = LayerSampling(mode=mode, weights=weights)
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    expected = [draw(options, 5, 7, block) for block in range(30)]
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(6)
    # In any order, like another process that starts in the middle.
    assert [draw(options, 5, 7, block) for block in reversed(range(30))] == expected[::-1]
    assert [draw(options, 5, 8, block) for block in range(30)] != expected
    assert (len(set(expected)) == 1) == (mode == "fixed")
    assert all(len(set(item)) == 2 and sorted(item) == list(item) for item in expected)


@given(st.lists(st.just(0.0) | st.floats(1e-9, 1e9), min_size=1, max_size=12), st.data())
@settings(deadline=None, max_examples=100)
def test_inclusion_is_in_proportion_to_the_weights(weights, data):
    positive = sum(weight > 0 for weight in weights)
    if not positive:
        return
    count = data.draw(st.integers(1, positive))
    shares = inclusion(weights, count)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.sum() == pytest.approx(count, rel=1e-9)
    assert all(share == 0 for share, weight in zip(shares, weights, strict=True) if weight == 0)
    # Shares below 1 are proportional to the weights; a share of 1 is at most its proportion.
    part = [(w, s) for w, s in zip(weights, shares, strict=True) if 0 < s < 1]
    for w, s in part:
        assert s / part[0][1] == pytest.approx(w / part[0][0], rel=1e-9)
    options = LayerSampling(num_active=count, mode="weighted", weights=tuple(weights))
    for block in range(3):
        chosen = draw(options, len(weights), 0, block)
        assert len(set(chosen)) == count
        assert all(shares[number] > 0 for number in chosen)
        assert set(np.flatnonzero(shares >= 1)) <= set(chosen)


@pytest.mark.parametrize(
    ("steps", "layers", "expected"), [(400, 6, 20), (400, 30, 6), (60, 6, 5), (3, 6, 1)]
)
def test_the_default_interval_gives_about_four_draws_a_layer(steps, layers, expected):
    """It is max(1, min(20, Tγ / 4N)); a requested interval is used as it is."""
    assert LayerSampling().interval_of(steps, layers) == expected
    assert LayerSampling(interval=7).interval_of(steps, layers) == 7
