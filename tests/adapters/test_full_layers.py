"""Training whole layers of a backbone: which layers are trained, and what is saved of them."""

import pytest
import torch
from tiny_hosts import tiny_llama, tokens

from bayeslora.adapters.layer_sampling import ALWAYS
from bayeslora.adapters.spectrum import full_spectrum
from bayeslora.contrib.lisa import LISA
from bayeslora.testing.adapter import output

AFTER = frozenset({"norm"})
TWO = LISA(num_layers=2)


def test_the_function_is_the_same_and_the_values_are_copies():
    model, plain = tiny_llama(), tiny_llama()
    shared = dict(model.named_parameters())
    full = TWO.full_layers(model, lambda: AFTER)
    assert torch.equal(output(model, tokens()), output(plain, tokens()))
    assert list(full.groups) == ["layers.1", "layers.2", ALWAYS]
    named = dict(model.named_parameters())
    trained = {name for name, item in named.items() if item.requires_grad}
    assert trained == {name for items in full.groups.values() for name in items}
    assert all((named[name] is shared[name]) == (name not in trained) for name in named)


def test_a_backbone_in_bfloat16_trains_in_float32_and_stays_as_it_is():
    model = tiny_llama().to(torch.bfloat16)
    shared = list(model.parameters())
    TWO.full_layers(model, lambda: AFTER)
    assert {item.dtype for item in model.parameters()} == {torch.float32}
    assert {item.dtype for item in shared} == {torch.bfloat16}
    assert output(model, tokens()).dtype == torch.float32


def test_tied_parameters_stay_tied():
    model = tiny_llama()
    model.layers[2].self_attn.v_proj.weight = model.layers[2].self_attn.k_proj.weight
    TWO.full_layers(model, lambda: AFTER)
    layer = model.layers[2].self_attn
    assert layer.v_proj.weight is layer.k_proj.weight
    assert layer.k_proj.weight.requires_grad


def trained():
    model = tiny_llama()
    full = TWO.full_layers(model, lambda: AFTER)
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
    twin = TWO.full_layers(other, lambda: AFTER)
    with torch.no_grad():
        for item in twin.groups["layers.1"].values():
            item.add_(1)
    twin.changed = {"layers.1"}
    twin.load(stored)
    assert twin.changed == full.changed
    assert torch.equal(output(model, tokens()), output(other, tokens()))
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
    spectra = {item.name: item for item in full_spectrum(full)}
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
