"""Selection of columns for S²FT: units, budgets, scores and invalid options."""

import pytest
import torch
from known_moments import inject_with, moments_on
from tiny_hosts import tiny_llama, tokens

from bayeslora.adapters.inject import inject
from bayeslora.contrib.s2ft import (
    S2FT,
    Units,
    choose_columns,
    column_targets,
    largest_units,
    units_at,
)
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
@pytest.mark.parametrize("selection", ["weight", "activation", "product"])
def test_selections_are_what_they_say(selection, largest):
    config = S2FT(o_ratio=0.4, d_ratio=0.3, selection=selection, largest=largest)
    model = tiny_llama().double()
    names = column_targets(model, config)
    moments = moments_on(model, names, tokens())
    squares = {}
    for name in names:
        weight = model.get_submodule(name).weight.detach().square().sum(0)
        inputs = moments[name].diagonal()
        squares[name] = {"weight": weight, "activation": inputs, "product": inputs * weight}[
            selection
        ]
    expected = full_scores(model, config, squares)
    assert chosen(model, config, moments) == expected
