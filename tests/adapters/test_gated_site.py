"""A gate between a site's factors: where it acts, which tensors it has, invalid arguments."""

import pytest
import torch
from torch import nn

from bayeslora.adapters.inject import adapter_state, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.testing.adapter import randomise, stack

CONFIGS = pytest.mark.parametrize(
    "config",
    [
        LoRA(r=2, target_modules=("layers.0", "layers.2")),
        PoLAR(r=2, target_modules=("layers.0", "layers.2")),
    ],
    ids=["lora", "polar"],
)


def adapted(config):
    model = stack().eval()
    sites = inject(model, config, seed=0)
    randomise(sites)
    return model, sites


def inputs():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@CONFIGS
def test_a_gate_changes_what_the_first_factor_hands_on(config):
    """Doubling it doubles the change; both are rounded in float32."""
    _, (site, _) = adapted(config)
    x = inputs()
    base = nn.functional.linear(x, site.weight, site.bias)
    change = site(x) - base
    assert not site.is_gated
    site.attach(lambda z: 2 * z)
    assert site.is_gated
    torch.testing.assert_close(site(x) - base, 2 * change, rtol=1e-5, atol=1e-5)


@CONFIGS
def test_the_tensors_of_a_gate_stay_its_owners(config):
    model, sites = adapted(config)
    before = adapter_state(sites), [name for name, _ in model.named_parameters()]
    sites[0].attach(nn.Linear(2, 2))
    assert adapter_state(sites).keys() == before[0].keys()
    assert [name for name, _ in model.named_parameters()] == before[1]
