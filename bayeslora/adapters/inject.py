"""Insert adapters into a model, merge them, save and load their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError


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
    return inject_at(model, config.targets(model), config, seed, blank=blank)


def inject_at(
    model: nn.Module, names: Sequence[str], config: Adapter, seed: int, *, blank: bool = False
) -> list[Site]:
    """Inject adapters into the linear layers with exactly these names; see `inject`.

    Raises:
        InputError: The rank exceeds a layer's size, or heads cannot be separated.
    """
    hosts = {name: cast("nn.Linear", model.get_submodule(name)) for name in names}
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
    """Copy tensors named as in `adapter_state` into the sites, which adopt their shapes.

    Raises:
        InputError: A tensor is missing, unexpected or of the wrong shape; the message names it.
    """
    expected = _named_tensors(sites)
    for name in tensors:
        if name not in expected:
            raise InputError(
                f"unexpected adapter tensor {name!r}: the model has no such adapted layer"
            )
    if missing := expected.keys() - tensors.keys():
        raise InputError(f"adapter tensor {min(missing)!r} is missing")
    lay_out(sites, tensors)
    values = _named_tensors(sites)
    for name, value in values.items():
        if tensors[name].shape != value.shape:
            raise InputError(
                f"adapter tensor {name!r} has shape {list(tensors[name].shape)}, expected "
                f"{list(value.shape)}"
            )
    for name, value in values.items():
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
