"""Insert sites into a model; merge, save and load them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.site import Site


def inject(model: nn.Module, config: Adapter, seed: int, *, blank: bool = False) -> list[Site]:
    """Replace linear layers of `model` by adapted layers, in place, and freeze the rest.

    The model computes the same function as before until the adapters are trained.

    Args:
        model: The host; only adapter parameters still require a gradient afterwards.
        config: The adapter's options.
        seed: Seed of the random initialisation; the same seed gives the same factors.
        blank: Whether to skip an initialisation from the weights, because the adapter's tensors
            will be loaded. An adapter that starts from training rows is always blank until its
            `begin`.

    Returns:
        The sites, in module order.

    Raises:
        InputError: See `find_targets`; or the rank exceeds a layer's size. The model is then
            unchanged.
    """
    hosts: Any = {name: model.get_submodule(name) for name in config.targets(model)}
    generator = Generator().manual_seed(seed)
    blank = blank or config.starts_from_rows
    return put(model, config.make_sites(model, hosts, generator, blank=blank))


def put(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """Insert sites at the paths of their names and freeze the rest.

    Returns the sites in module order.
    """
    for site in sites:
        _replace(model, site.name, site)
    adapters = {id(value) for site in find_sites(model) for value in site.trainable().values()}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad_(False)
    names = {site.name for site in sites}
    return [site for site in find_sites(model) if site.name in names]


def find_sites(model: nn.Module) -> list[Site]:
    """Return the adapters in `model`, in module order."""
    return [module for module in model.modules() if isinstance(module, Site)]


def export(model: nn.Module) -> nn.Module:
    """Return a copy of `model` with every adapter merged into a plain linear layer."""
    plain = copy.deepcopy(model)
    sites = [(name, item) for name, item in plain.named_modules() if isinstance(item, Site)]
    for name, site in sites:
        _replace(plain, name, site.merged())
    return plain


def adapter_state(sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return copies of all adapter tensors on the CPU, named `<module>.A`, `.B` and `.core`.

    A change relative to a start adds `.A0` and `.B0`; see `Site.tensors`.
    """
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in _named_tensors(sites).items()
    }


@torch.no_grad()
def load_adapter_state(sites: Sequence[Site], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors named as in `adapter_state` into the sites, which adopt their shapes."""
    lay_out(sites, tensors)
    for name, value in _named_tensors(sites).items():
        value.copy_(tensors[name])


def lay_out(sites: Sequence[Site], tensors: Mapping[str, Tensor]) -> None:
    """Resize sites to the shapes of tensors named as in `adapter_state`; see `Site.resize`."""
    for site in sites:
        names = {key: f"{site.name}.{key}" for key in site.tensors()}
        site.resize({key: tensors[name] for key, name in names.items() if name in tensors})


def _named_tensors(sites: Sequence[Site]) -> dict[str, Tensor]:
    return {f"{site.name}.{key}": value for site in sites for key, value in site.tensors().items()}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
