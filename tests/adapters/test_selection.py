"""Selection of columns for S²FT: units, budgets, scores and invalid options."""

import copy
from dataclasses import replace

import pytest
import torch
from refusal import refused
from safetensors.torch import save_file
from tiny_hosts import inject_with, moments_on, tiny_bert, tiny_llama, tokens
from torch import nn

from bayeslora.adapters.inject import adapter_state, inject
from bayeslora.checkpoint import ADAPTER
from bayeslora.contrib.s2ft import (
    ADAPTER_FILE,
    S2FT,
    Units,
    begin_by_gradient,
    choose_columns,
    column_targets,
    free_units,
    largest_units,
    units_at,
)
from bayeslora.testing.adapter import output, randomise, stack

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


def test_an_encoder_has_heads_and_channels():
    model = tiny_bert()
    names = column_targets(model, S2FT(num_layers=1))
    assert names == ["encoder.layer.2.attention.output.dense", "encoder.layer.2.output.dense"]
    assert [unit.count for unit in units_at(model, names, S2FT())] == [HEADS, CHANNELS]


def llama_like(family):
    import transformers

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 40}
    torch.manual_seed(0)
    make = getattr(transformers, f"{family}Config")
    if family == "DistilBert":
        return transformers.DistilBertModel(make(dim=16, n_heads=4, n_layers=2, hidden_dim=24))
    if family == "OPT":
        options = {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 32}
        return transformers.OPTModel(make(**sizes, **options))
    if family == "ModernBert":
        return transformers.ModernBertModel(
            make(**sizes, intermediate_size=24, pad_token_id=0, reference_compile=False)
        )
    return getattr(transformers, f"{family}Model")(make(**sizes, intermediate_size=24))


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("DistilBert", ["transformer.layer.1.attention.out_lin", "transformer.layer.1.ffn.lin2"]),
        ("OPT", ["decoder.layers.1.self_attn.out_proj", "decoder.layers.1.fc2"]),
        ("ModernBert", ["layers.1.attn.Wo", "layers.1.mlp.Wo"]),
        ("GPTNeoX", ["layers.1.attention.dense", "layers.1.mlp.dense_4h_to_h"]),
        ("Roberta", ["encoder.layer.1.attention.output.dense", "encoder.layer.1.output.dense"]),
    ],
)
def test_other_architectures_have_them_too(family, names):
    model = llama_like(family)
    assert column_targets(model, S2FT(num_layers=1)) == names
    assert [unit.count for unit in units_at(model, names, S2FT())] == [HEADS, CHANNELS]


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


def test_without_a_ratio_a_kind_of_layer_is_left_as_it_is():
    model = tiny_llama()
    assert all("down_proj" in name for name in column_targets(model, S2FT(o_ratio=0)))
    assert all("o_proj" in name for name in column_targets(model, S2FT(d_ratio=0)))
    sites = inject(tiny_llama(), S2FT(o_ratio=0, target_modules=("o_proj", "up_proj")), seed=0)
    assert {site.name.split(".")[-1] for site in sites} == {"up_proj"}
    with refused("input", "o_ratio"):
        column_targets(model, S2FT(o_ratio=0, target_modules=("o_proj",)))
    with refused("input", "d_ratio"):
        column_targets(model, S2FT(d_ratio=0, target_modules=("down_proj",)))


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


def test_equal_scores_go_to_the_earlier_unit():
    units = [Units("a", 3, 1, 0.5), Units("b", 3, 1, 0.5)]
    for largest in (True, False):
        indices = largest_units(units, {key: torch.ones(3) for key in "ab"}, largest=largest)
        assert indices["a"].tolist() == [0, 1, 2]
        assert indices["b"].tolist() == []


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


def test_the_choices_differ():
    model = tiny_llama()
    config = {"o_ratio": 0.4, "d_ratio": 0.3}
    moments = moments_on(model, column_targets(model, S2FT(**config)), tokens())
    choices = [
        chosen(tiny_llama(), S2FT(**config, selection=selection, largest=largest), moments)
        for selection in ("random", "weight", "activation", "product")
        for largest in (True, False)[: 1 if selection == "random" else 2]
    ]
    assert all(choice != other for place, choice in enumerate(choices) for other in choices[:place])


def test_a_gradient_that_does_not_come_is_said():
    config = S2FT(o_ratio=0, selection="gradient")
    model = tiny_llama()
    sites = inject(model, config, seed=0, blank=True)
    units = units_at(model, [site.name for site in sites], config)
    with refused("input", "gradient", "layers.0.mlp"):
        begin_by_gradient(sites, units, lambda: None)


def test_heads_that_cannot_be_told_apart_are_refused():
    model = stack()
    model.o_proj = nn.Linear(6, 6)
    with refused("input", "o_proj", "6 inputs", "=None"):
        inject(model, S2FT(target_modules=("o_proj",)), seed=0)
    llama = tiny_llama()
    llama.config.num_attention_heads = 3
    with refused("input", "16 inputs", "num_attention_heads=3"):
        inject(llama, S2FT(), seed=0)
    assert not any(type(module).__name__ == "Columns" for module in llama.modules())


def test_an_unknown_architecture_is_refused():
    with refused("input", "target_modules"):
        inject(stack(), S2FT(), seed=0)


def test_an_adapted_layer_is_refused():
    model = tiny_llama()
    randomise(inject(model, S2FT(), seed=0))
    with refused("input", "o_proj"):
        inject(model, S2FT(), seed=1)


def saved_columns(directory, config, seed=0, before=""):
    """Write a model directory's adapter; return its columns."""
    directory.mkdir()
    sites = inject(tiny_llama(), config, seed=seed)
    state = {f"{before}{name}": value for name, value in adapter_state(sites).items()}
    save_file(state, directory / ADAPTER)
    return {site.name: set(site.idx.tolist()) for site in sites}


def test_the_file_is_that_of_a_model_directory():
    assert ADAPTER_FILE == ADAPTER


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


def test_the_best_of_the_rest_is_taken():
    units = [Units("a.down_proj", 4, 1, 0.5)]
    scores = {"a.down_proj": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    free = {"a.down_proj": torch.tensor([False, True, False, True])}
    for largest in (True, False):
        indices = largest_units(units, scores, largest=largest, free=free)
        assert indices["a.down_proj"].tolist() == [1, 3]
    units = [replace(units[0], ratio=0.25)]
    assert largest_units(units, scores, free=free)["a.down_proj"].tolist() == [1]
    assert largest_units(units, scores, largest=False, free=free)["a.down_proj"].tolist() == [3]


def test_what_cannot_be_avoided_is_said(tmp_path):
    config = S2FT(o_ratio=0.6, d_ratio=0.25)
    saved_columns(tmp_path / "most", config)
    with refused("input", "avoid=['", "most']", "5", "12", "o_ratio=0.6", "7"):
        inject(tiny_llama(), replace(config, avoid=str(tmp_path / "most")), seed=0)
    with refused("input", "avoid='nowhere'"):
        inject(tiny_llama(), replace(config, avoid="nowhere"), seed=0)
    (tmp_path / "lora").mkdir()
    save_file({"adapter.x.A": torch.zeros(2)}, tmp_path / "lora" / ADAPTER)
    with refused("input", "'s2ft'"):
        inject(tiny_llama(), replace(config, avoid=str(tmp_path / "lora")), seed=0)
    for tensors, named in (
        ({"adapter.encoder.down_proj.idx": torch.tensor([1])}, ("layers.0.self_attn.o_proj",)),
        (
            {"adapter.layers.1.mlp.down_proj.idx": torch.tensor([24])},
            ("adapter.layers.1.mlp.down_proj", "23", "24"),
        ),
        (
            {"adapter.layers.1.mlp.down_proj.idx": torch.tensor([0.5])},
            ("adapter.layers.1.mlp.down_proj", "0.5"),
        ),
    ):
        save_file(tensors, tmp_path / "lora" / ADAPTER)
        with refused("input", *named):
            inject(tiny_llama(), replace(config, avoid=str(tmp_path / "lora")), seed=0)
    with refused("option", "avoid", "''"):
        S2FT(avoid=("a", ""))
    with refused("option", "avoid", "3"):
        S2FT(avoid=3)
