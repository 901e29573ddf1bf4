"""Adapters that start from second moments of the inputs of their layers, which are known."""

import sys
from types import SimpleNamespace
from unittest.mock import patch

import torch

from bayeslora.adapters.site import inject
from bayeslora.contrib.moments import second_moments


def moments_on(model, names, inputs):
    """Return second moments of layers on inputs of a host without any padding."""
    mask = torch.ones(inputs.shape if not inputs.is_floating_point() else (len(inputs), 1))
    inputs = inputs.to(next(model.parameters()).dtype) if inputs.is_floating_point() else inputs
    layers = {name: model.get_submodule(name) for name in names}
    return second_moments(
        lambda batch: model(batch["inputs"]), layers, [{"inputs": inputs, "attention_mask": mask}]
    )


def inject_with(moments, model, config, seed=0):
    """Insert adapters that start from second moments of the inputs of their layers."""
    sites = inject(model, config, seed)
    encoder = SimpleNamespace(model=model, prepare=lambda *_, **__: None)
    network, plan = SimpleNamespace(sites=sites, encoder=encoder), SimpleNamespace(progress=False)
    method = sys.modules[type(config).__module__]
    with patch.object(method, "moments_on", lambda *_, **__: moments):
        config.begin(SimpleNamespace(network=network, plan=plan, train=None))
    return sites
