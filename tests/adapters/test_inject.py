"""Injection and the names of adapter tensors; the site laws test what all sites share."""

import torch
from refusal import refused

from bayeslora.adapters.inject import adapter_state, find_sites, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.testing.adapter import randomise, stack


def adapted(**options):
    model = stack()
    return model, inject(model, LoRA(r=2, target_modules=(r"layers\..",), **options), seed=0)


def test_sites_are_named_and_ordered_as_in_the_model():
    model, sites = adapted()
    assert [site.name for site in sites] == ["layers.0", "layers.1", "layers.2"]
    assert find_sites(model) == sites
    assert all(model.get_submodule(site.name) is site for site in sites)


def test_everything_but_adapters_is_frozen():
    model, _ = adapted()
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {f"layers.{i}.{key}.weight" for i in range(3) for key in "AB"}


def test_a_refused_injection_changes_nothing():
    model = stack()
    before = {name: type(module) for name, module in model.named_modules()}
    with refused("input", "4", "5"):
        inject(model, PoLAR(r=5, target_modules=("layers.0", "head")), seed=0)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert all(value.requires_grad for value in model.parameters())


def test_state_names_and_copies():
    model = stack()
    sites = inject(model, PoLAR(r=2, target_modules=("head",)), seed=0)
    state = adapter_state(sites)
    assert {name: list(value.shape) for name, value in state.items()} == {
        "head.A": [2, 6],
        "head.B": [4, 2],
        "head.core": [2, 2],
    }
    randomise(sites)
    assert torch.count_nonzero(state["head.core"]) == 0
