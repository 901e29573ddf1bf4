"""LISA: which layers are trained and saved, and the sampling policy alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_hosts import tiny_llama, tokens
from torch import nn

from bayeslora.contrib.lisa import ALWAYS, LISA, FullLayers, LayerSampler, draw
from bayeslora.errors import InputError
from bayeslora.testing.adapter import CompanionLaws, output

AFTER = frozenset({"norm"})
TWO = LISA(num_layers=2)


class TestWholeLayers(CompanionLaws):
    def make(self):
        return FullLayers(tiny_llama(), AFTER, TWO)

    def change(self, companion):
        companion.changed = {"layers.2"}
        with torch.no_grad():
            companion.groups["layers.2"]["layers.2.input_layernorm.weight"].add_(1)


def test_the_function_is_the_same_and_the_values_are_copies():
    model, plain = tiny_llama(), tiny_llama()
    shared = dict(model.named_parameters())
    full = FullLayers(model, AFTER, TWO)
    assert torch.equal(output(model, tokens()), output(plain, tokens()))
    assert list(full.groups) == ["layers.1", "layers.2", ALWAYS]
    named = dict(model.named_parameters())
    trained = {name for name, item in named.items() if item.requires_grad}
    assert trained == {name for items in full.groups.values() for name in items}
    assert all((named[name] is shared[name]) == (name not in trained) for name in named)


def test_a_backbone_in_bfloat16_trains_in_float32_and_stays_as_it_is():
    model = tiny_llama().to(torch.bfloat16)
    shared = list(model.parameters())
    FullLayers(model, AFTER, TWO)
    assert {item.dtype for item in model.parameters()} == {torch.float32}
    assert {item.dtype for item in shared} == {torch.bfloat16}
    assert output(model, tokens()).dtype == torch.float32


def test_tied_parameters_stay_tied():
    model = tiny_llama()
    model.layers[2].self_attn.v_proj.weight = model.layers[2].self_attn.k_proj.weight
    FullLayers(model, AFTER, TWO)
    layer = model.layers[2].self_attn
    assert layer.v_proj.weight is layer.k_proj.weight
    assert layer.k_proj.weight.requires_grad


def trained():
    model = tiny_llama()
    full = FullLayers(model, AFTER, TWO)
    with torch.no_grad():
        for item in full.groups["layers.2"].values():
            item.add_(0.5)
    full.changed = {"layers.2", ALWAYS}
    return model, full


def test_what_trained_is_saved_whole_and_loaded_over_anything():
    model, full = trained()
    stored = {name: item.detach().clone() for name, item in full.tensors().items()}
    assert len(stored) == 10
    other = tiny_llama()
    twin = FullLayers(other, AFTER, TWO)
    with torch.no_grad():
        for item in twin.groups["layers.1"].values():
            item.add_(1)
    twin.changed = {"layers.1"}
    twin.resize(stored)
    twin.load(stored)
    assert twin.changed == full.changed
    assert torch.equal(output(model, tokens()), output(other, tokens()))
    twin.resize({})
    twin.load({})
    assert torch.equal(output(other, tokens()), output(tiny_llama(), tokens()))


def test_the_figures_are_those_of_the_difference():
    _, full = trained()
    sizes = {name: item.numel() for name, item in full.groups["layers.2"].items()}
    summary = full.summary()
    assert summary["num_layers"] == 1
    assert summary["num_parameters"] == sum(sizes.values()) + 16
    # Each entry moved by 1/2, up to rounding in float32.
    assert summary["delta_norm"] == pytest.approx(0.5 * sum(sizes.values()) ** 0.5, rel=1e-6)
    spectra = {item.name: item for item in full.spectra()}
    assert set(spectra) == {f"layers.2.{end}" for end in MATRICES}
    up = spectra["layers.2.mlp.up_proj"]
    # A constant matrix has one singular value, c √(out · in).
    assert up.norm == pytest.approx(0.5 * (24 * 16) ** 0.5, rel=1e-6)
    assert up.stable_rank == pytest.approx(1, rel=1e-6)
    start = tiny_llama().layers[2].mlp.up_proj.weight.detach()
    assert up.relative_norm == pytest.approx(up.norm / float(start.norm()), rel=1e-6)


MATRICES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


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
    layers = {f"layers.{n}": dict(item.named_parameters()) for n, item in enumerate(model.layers)}
    return {**layers, ALWAYS: dict(model.last.named_parameters())}


def policy(model, seed=1, interval=3, **options):
    config = LISA(num_layers=None, interval=interval, **options)
    layers = SimpleNamespace(groups=groups(model), changed=set())
    return LayerSampler(config, layers, 100, seed)


def optimizer_of(model, **options):
    model.first.requires_grad_(False)
    parameters = [item for items in groups(model).values() for item in items.values()]
    return torch.optim.AdamW(parameters, lr=0.05, **options)


def train(model, lisa, optimizer, steps, begin=0):
    """Train on data that depends on the step alone."""
    for step in range(begin, steps):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator)
        if lisa is not None:
            lisa.before_step(step, steps, optimizer)
        (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def equal(model, other):
    first, second = model.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_all_layers_active_is_plain_adamw_step_for_step():
    model, other = tower(), tower()
    lisa = policy(model, num_active=5, interval=2)
    first, second = optimizer_of(model, weight_decay=0.1), optimizer_of(other, weight_decay=0.1)
    for step in range(7):
        train(model, lisa, first, step + 1, begin=step)
        train(other, None, second, step + 1, begin=step)
        assert equal(model, other)


@pytest.mark.parametrize("mode", ["uniform", "cycle", "fixed"])
def test_draws_follow_from_seed_and_block_alone(mode):
    options = LISA(num_layers=None, mode=mode)
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


@pytest.mark.parametrize(
    ("steps", "layers", "expected"), [(400, 6, 20), (400, 30, 6), (60, 6, 5), (3, 6, 1)]
)
def test_the_default_interval_gives_about_four_draws_a_layer(steps, layers, expected):
    """It is max(1, min(20, Tγ / 4N)); a requested interval is used as it is."""
    assert LISA(num_layers=None).interval_of(steps, layers) == expected
    assert LISA(num_layers=None, interval=7).interval_of(steps, layers) == 7


def test_no_more_layers_train_than_there_are():
    with pytest.raises(InputError, match="num_active"):
        LISA(num_active=3, num_layers=2)
