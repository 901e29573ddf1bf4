"""Adapters of columns on one backbone together."""

import itertools

import pytest
import torch
from tiny_hosts import output, randomise, stack, tiny_llama, tokens

from bayeslora.adapters.config import LoRA
from bayeslora.adapters.config_columns import S2FT
from bayeslora.adapters.fuse import fuse, merge, unmerge
from bayeslora.adapters.inject import (
    adapter_state,
    export,
    find_sites,
    inject,
    inject_columns,
)
from bayeslora.errors import InputError

LAYER = "layers.1.mlp.down_proj"


def adapter(idx, layer=LAYER, seed=0):
    change = torch.randn(16, len(idx), generator=torch.Generator().manual_seed(seed))
    return inject_columns(tiny_llama(), {layer: (torch.tensor(idx), change)})


def test_columns_that_are_apart_add_in_any_order():
    parts = [
        adapter([1, 7]),
        adapter([0, 20, 23], seed=1),
        adapter([3], "layers.0.self_attn.o_proj"),
    ]
    plain = tiny_llama()
    weight = plain.get_submodule(LAYER).weight + parts[0][0].delta() + parts[1][0].delta()
    found = []
    for order in itertools.permutations(parts):
        model = tiny_llama()
        sites = fuse(model, order)
        assert [site.name for site in sites] == ["layers.0.self_attn.o_proj", LAYER]
        assert sites[1].idx.tolist() == [0, 1, 7, 20, 23]
        assert torch.equal(export(model).get_submodule(LAYER).weight, weight)
        found.append(output(model, tokens()))
    assert all(torch.equal(found[0], item) for item in found[1:])
    assert (found[0] - output(plain, tokens())).abs().max() > 1e-3


def test_saved_tensors_can_be_fused():
    one, other = adapter([1, 7]), adapter([2], seed=1)
    state = {f"adapter.{name}": value for name, value in adapter_state(other).items()}
    first, second = tiny_llama(), tiny_llama()
    fuse(first, [one, other])
    fuse(second, [adapter_state(one), state])
    assert torch.equal(output(first, tokens()), output(second, tokens()))


def test_halves_of_a_trained_adapter_are_the_whole():
    model = tiny_llama()
    sites = inject(model, S2FT(o_ratio=0.5, d_ratio=0.5), seed=0)
    randomise(sites)
    halves = [
        {name: value[..., start::2] for name, value in adapter_state(sites).items()}
        for start in (0, 1)
    ]
    fused = tiny_llama()
    fuse(fused, halves)
    assert torch.equal(output(fused, tokens()), output(model, tokens()))


def refused(adapters, message):
    model = tiny_llama()
    with pytest.raises(InputError, match=message):
        fuse(model, adapters)
    assert not find_sites(model)


def test_shared_columns_are_refused():
    message = r"layers\.1\.mlp\.down_proj: several adapters change columns 1, 7, and columns"
    refused([adapter([1, 3, 7]), adapter([0, 1, 7], seed=1)], message)


def test_what_does_not_fit_is_refused():
    state = adapter_state(adapter([1, 7]))
    refused([], "there are no adapters of columns to fuse")
    refused([adapter_state(inject(tiny_llama(), LoRA(r=1), seed=0))], r"'.*\.A' is not one of an")
    refused([{**state, f"{LAYER}.sel": state[f"{LAYER}.sel"][:, 1:]}], "of 2 columns")
    refused([{**state, f"{LAYER}.sel": state[f"{LAYER}.sel"][1:]}], r"shape \[15, 2\], the model")
    refused([{name: value for name, value in state.items() if "idx" in name}], "is not one of an")
    refused([{f"nowhere.{key}": state[f"{LAYER}.{key}"] for key in ("idx", "sel")}], "nowhere")


def test_a_layer_with_an_adapter_is_refused():
    model = tiny_llama()
    fuse(model, [adapter([1])])
    with pytest.raises(InputError, match=r"down_proj is a Columns, only nn\.Linear"):
        fuse(model, [adapter([2])])


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(InputError, match="the model has no layer nowhere"):
        inject_columns(stack(), {"nowhere": (torch.tensor([0]), torch.zeros(6, 1))})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_is_what_export_does_and_unmerging_undoes_it_bit_by_bit(dtype):
    """In any order where columns are apart; the layers stay the same objects."""
    parts = [adapter([1, 7]), adapter_state(adapter([20, 0, 3], seed=1))]
    model = tiny_llama().to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {name: value.data_ptr() for name, value in model.named_parameters()}
    kept = [merge(model, part) for part in parts]
    both = tiny_llama().to(dtype)
    fuse(both, parts)
    assert torch.equal(output(model, tokens()), output(export(both), tokens()))
    unmerge(model, kept[0])
    alone = tiny_llama().to(dtype)
    fuse(alone, parts[1:])
    expected = export(alone).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    unmerge(model, kept[1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: value.data_ptr() for name, value in model.named_parameters()} == tensors
    assert all(value.requires_grad for value in model.parameters())


def test_shared_columns_are_unmerged_the_last_one_first():
    model, plain = tiny_llama(), tiny_llama()
    kept = [merge(model, adapter([1, 7], seed=seed)) for seed in (0, 1)]
    for columns in reversed(kept):
        unmerge(model, columns)
    assert torch.equal(output(model, tokens()), output(plain, tokens()))


def test_what_does_not_fit_is_neither_merged_nor_unmerged():
    model, plain = tiny_llama(), tiny_llama()
    fits = adapter_state(adapter([1], "layers.0.self_attn.o_proj"))
    wide = {f"{LAYER}.idx": torch.tensor([1, 99]), f"{LAYER}.sel": torch.zeros(16, 2)}
    short = {f"{LAYER}.idx": torch.tensor([1]), f"{LAYER}.sel": torch.zeros(8, 1)}
    with pytest.raises(InputError, match=r"down_proj: the weight has columns 0 to 23, got 99"):
        merge(model, {**fits, **wide})
    with pytest.raises(InputError, match=r"have shape \[8, 1\], the model needs \[16, 1\]"):
        merge(model, {**fits, **short})
    kept = merge(tiny_llama(), adapter([1]))
    with pytest.raises(InputError, match="has no layer encoder"):
        unmerge(model, {f"encoder.{name}": value for name, value in kept.items()})
    for wrong in ({}, {f"{LAYER}.idx": torch.tensor([1])}, {**kept, "more": torch.zeros(1)}):
        with pytest.raises(InputError, match="not the columns that merging an adapter returned"):
            unmerge(model, wrong)
    assert torch.equal(output(model, tokens()), output(plain, tokens()))


def test_the_sum_has_the_finer_precision():
    """A change of nothing changes nothing, whatever precision it has."""
    for host, change in ((torch.float32, torch.bfloat16), (torch.float64, torch.float32)):
        model = tiny_llama().to(host)
        before = model.get_submodule(LAYER).weight.detach().clone()
        merge(
            model,
            {f"{LAYER}.idx": torch.tensor([1]), f"{LAYER}.sel": torch.zeros(16, 1).to(change)},
        )
        assert torch.equal(model.get_submodule(LAYER).weight, before)


def test_numbers_of_columns_may_be_of_any_integer_type():
    change = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    models = []
    for dtype in (torch.int32, torch.int64):
        models.append(tiny_llama())
        merge(
            models[-1], {f"{LAYER}.idx": torch.tensor([7, 1], dtype=dtype), f"{LAYER}.sel": change}
        )
    assert torch.equal(*(output(model, tokens()) for model in models))


def test_layers_that_share_a_weight_and_adapters_without_tensors_are_refused():
    model = tiny_llama()
    other = "layers.0.mlp.down_proj"
    model.get_submodule(other).weight = model.get_submodule(LAYER).weight
    both = adapter_state(adapter([1])) | adapter_state(adapter([1], other))
    with pytest.raises(InputError, match=r"share a weight, which cannot take two changes"):
        merge(model, both)
    with pytest.raises(InputError, match="the adapter has no tensors; one of columns"):
        merge(tiny_llama(), {})
