"""Selection of columns for S²FT: units, budgets, scores and invalid options."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tiny_hosts import inject_with, moments_on, tiny_llama, tokens

from bayeslora.adapters.inject import adapter_state, inject
from bayeslora.adapters.options import S2FT
from bayeslora.adapters.s2ft import (
    Units,
    begin_by_gradient,
    choose_columns,
    column_targets,
    free_units,
    largest_units,
    units_at,
)
from bayeslora.checkpoint import ADAPTER
from bayeslora.testing.adapter import output

HEADS, CHANNELS = 4, 24


def test_a_decoder_has_heads_and_channels():
    model = tiny_llama()
    names = column_targets(model, S2FT(num_layers=2))
    assert names == [
        f"layers.{layer}.{part}"
        for layer in (1, 2)
        for part in ("self_attn.o_proj", "mlp.down_proj")
    ]
    heads, channels = units_at(model, names[:2], S2FT(num_layers=2))
    assert (heads.count, heads.width, heads.ratio) == (HEADS, 4, 0.052)
    assert (channels.count, channels.width, channels.ratio) == (CHANNELS, 1, 0.02)


@pytest.mark.parametrize("head", range(HEADS))
def test_a_head_is_the_columns_that_its_queries_move(head):
    """Also with grouped queries: four heads share two keys and values, in unchanged order."""
    model, other = tiny_llama(), tiny_llama()
    name = "layers.1.self_attn.o_proj"
    seen = []
    for host in (model, other):
        host.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    other.layers[1].self_attn.q_proj.weight.data[4 * head : 4 * head + 4] *= -3
    output(model, tokens())
    output(other, tokens())
    moved = (seen[0] != seen[1]).flatten(0, 1).any(0).nonzero()[:, 0]
    (unit,) = units_at(model, [name], S2FT(o_ratio=0.25))
    scores = {name: (torch.arange(HEADS) == head).double()}
    assert torch.equal(largest_units([unit], scores)[name], moved)


def test_a_budget_is_shared_by_all_layers():
    """The best three of eight units are on one layer, whatever the other has."""
    units = [Units("a", 4, 2, 0.4), Units("b", 4, 2, 0.4)]
    scores = {"a": torch.tensor([1.0, 9, 8, 7]), "b": torch.tensor([3.0, 2, 4, 0])}
    indices = largest_units(units, scores)
    assert {name: idx.tolist() for name, idx in indices.items()} == {
        "a": [2, 3, 4, 5, 6, 7],
        "b": [],
    }
    indices = largest_units(units, scores, largest=False)
    assert {name: idx.tolist() for name, idx in indices.items()} == {"a": [0, 1], "b": [2, 3, 6, 7]}


def test_heads_and_channels_have_budgets_of_their_own():
    units = [Units("o_proj", 2, 2, 0.5), Units("down_proj", 4, 1, 0.01)]
    scores = {"o_proj": torch.tensor([0.0, 0.1]), "down_proj": torch.tensor([1.0, 4, 3, 2])}
    indices = largest_units(units, scores)
    assert indices["o_proj"].tolist() == [2, 3]
    # A share of 0.04 channels is one channel.
    assert indices["down_proj"].tolist() == [1]


def test_random_units_are_uniform_over_all_layers():
    """Each of 72 channels appears about 500 times in 2,000 draws of 18; six sigma are 116."""
    config = S2FT(o_ratio=0, d_ratio=0.25)
    model = tiny_llama()
    units = units_at(model, column_targets(model, config), config)
    counts = torch.zeros(3, CHANNELS)
    for seed in range(2000):
        chosen = choose_columns(units, {}, config, torch.Generator().manual_seed(seed))
        for layer, idx in enumerate(chosen.values()):
            counts[layer, idx] += 1
    assert counts.sum() == 2000 * 18
    assert (counts - 500).abs().max() < 116


def chosen(model, config, moments):
    is_learned = config.selection in ("activation", "product")
    sites = inject_with(moments, model, config) if is_learned else inject(model, config, seed=0)
    return {site.name: site.idx.tolist() for site in sites}


def full_scores(model, config, squares):
    """Select by the definition: norms of whole units in a loop, sorted by Python."""
    names = column_targets(model, config)
    columns = {name: [] for name in names}
    for part, ratio, width in (("o_proj", config.o_ratio, 4), ("down_proj", config.d_ratio, 1)):
        ranked = []
        for name in names:
            if name.endswith(part):
                for unit in range(len(squares[name]) // width):
                    places = range(width * unit, width * (unit + 1))
                    size = sum(float(squares[name][place]) for place in places)
                    ranked.append((size, name, list(places)))
        ranked.sort(key=lambda item: item[0], reverse=config.largest)
        for _, name, places in ranked[: max(1, round(ratio * len(ranked)))]:
            columns[name] += places
    return {name: sorted(places) for name, places in columns.items()}


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("selection", ["weight", "activation", "product", "gradient"])
def test_selections_are_what_they_say(selection, largest):
    config = S2FT(o_ratio=0.4, d_ratio=0.3, selection=selection, largest=largest)
    model = tiny_llama().double()
    names = column_targets(model, config)
    moments = moments_on(model, names, tokens())
    direction = torch.randn(16, generator=torch.Generator().manual_seed(4)).double()
    full = copy.deepcopy(model)
    (full(tokens()).last_hidden_state * direction).sum().backward()
    squares = {}
    for name in names:
        layer = full.get_submodule(name)
        weight, inputs = layer.weight.detach().square().sum(0), moments[name].matrix.diagonal()
        squares[name] = {
            "weight": weight,
            "activation": inputs,
            "product": inputs * weight,
            "gradient": layer.weight.grad.square().sum(0),
        }[selection]
    expected = full_scores(model, config, squares)
    if selection != "gradient":
        assert chosen(model, config, moments) == expected
        return
    sites = inject(model, config, seed=0, blank=True)
    units = units_at(model, names, config)

    def backward():
        for row in tokens():
            (model(row[None]).last_hidden_state * direction).sum().backward()

    begin_by_gradient(sites, units, backward, largest=largest)
    assert {site.name: site.idx.tolist() for site in sites} == expected
    assert all(torch.count_nonzero(site.delta()) == 0 for site in sites)
    assert all(site.sel.weight.grad is None for site in sites)


def saved_columns(directory, config, seed=0, before=""):
    """Write a model directory's adapter; return its columns."""
    directory.mkdir()
    sites = inject(tiny_llama(), config, seed=seed)
    state = {f"{before}{name}": value for name, value in adapter_state(sites).items()}
    save_file(state, directory / ADAPTER)
    return {site.name: set(site.idx.tolist()) for site in sites}


@pytest.mark.parametrize("selection", ["random", "weight", "activation", "gradient"])
def test_columns_of_other_models_are_left_alone(tmp_path, selection):
    """The best remaining units are taken, as many as without exclusions."""
    config = S2FT(o_ratio=0.25, d_ratio=0.25, selection="weight")
    taken = [
        saved_columns(tmp_path / "a", config),
        # As in an ensemble, where the name of a member precedes those of its layers.
        saved_columns(tmp_path / "b", replace(config, selection="random"), 3, "1.adapter."),
    ]
    own = replace(config, selection=selection)
    away = replace(own, avoid=(str(tmp_path / "a"), str(tmp_path / "b")))
    model = tiny_llama()
    names = column_targets(model, own)
    moments = moments_on(model, names, tokens())
    if selection == "gradient":
        sites, units = inject(model, own, seed=0, blank=True), units_at(model, names, own)

        def backward():
            model(tokens()).last_hidden_state.square().sum().backward()

        begin_by_gradient(sites, units, backward, free=free_units(units, away))
        columns = {site.name: site.idx.tolist() for site in sites}
    else:
        columns = chosen(model, away, moments)
    assert not any(taken[n][name] & set(idx) for n in (0, 1) for name, idx in columns.items())
    # Three of twelve heads of four columns, and 18 of 72 channels.
    assert sum(len(idx) for name, idx in columns.items() if "o_proj" in name) == 3 * 4
    assert sum(len(idx) for name, idx in columns.items() if "down_proj" in name) == 18
