"""Put adapters into a model, take them out, merge them, and name their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from bayeslora.adapters.config import AdapterConfig, PoLAR
from bayeslora.adapters.init import Factors, kaiming_zero, polar
from bayeslora.adapters.site import LowRank
from bayeslora.adapters.targets import find_targets
from bayeslora.errors import InputError


def inject(model: nn.Module, config: AdapterConfig, seed: int) -> list[LowRank]:
    """Replace linear layers of `model` by adapted ones, in place, and freeze all the rest.

    The model computes the same function as before until the adapters are trained.

    Args:
        model: The host; every parameter that is not an adapter's stops requiring a gradient.
        config: The adapter's options.
        seed: Of the random start; the same seed gives the same factors.

    Returns:
        The sites, in the model's own order.

    Raises:
        InputError: See `find_targets`; or the rank exceeds a layer's size. The model is then
            left as it was.
    """
    names = find_targets(model, config.target_modules, config.num_layers)
    return inject_at(model, names, config, seed)


def inject_at(
    model: nn.Module, names: Sequence[str], config: AdapterConfig, seed: int
) -> list[LowRank]:
    """Do what `inject` does, on the linear layers with these very names.

    Raises:
        InputError: The rank exceeds a layer's size.
    """
    generator = Generator().manual_seed(seed)
    starts = [_start(model, name, config, generator) for name in names]
    dropout = 0.0 if isinstance(config, PoLAR) else config.dropout
    for name, factors in zip(names, starts, strict=True):
        host = _linear_at(model, name)
        _replace(model, name, LowRank(name, host, factors, config.alpha / config.r, dropout))
    _freeze_hosts(model)
    return [site for site in find_sites(model) if site.name in set(names)]


def find_sites(model: nn.Module) -> list[LowRank]:
    """Return the adapters inside `model`, in its own order."""
    return [module for module in model.modules() if isinstance(module, LowRank)]


def remove(model: nn.Module) -> None:
    """Put the plain linear layers back, in place; they hold the very tensors that they held."""
    for name, site in _named_sites(model):
        _replace(model, name, site.plain())


def export(model: nn.Module) -> nn.Module:
    """Return a copy of `model` with every adapter merged into a plain linear layer."""
    plain = copy.deepcopy(model)
    for name, site in _named_sites(plain):
        _replace(plain, name, site.merged())
    return plain


def adapter_state(sites: Sequence[LowRank]) -> dict[str, Tensor]:
    """Return copies of all adapter tensors on the CPU, named `<module>.A`, `.B` and `.core`."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in _named_parameters(sites).items()
    }


@torch.no_grad()
def load_adapter_state(sites: Sequence[LowRank], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors named as by `adapter_state` into the sites; all of them or none.

    Raises:
        InputError: A tensor is missing, unexpected or of the wrong shape; the message names it.
    """
    parameters = _named_parameters(sites)
    for name in tensors:
        if name not in parameters:
            raise InputError(f"unexpected adapter tensor {name!r}: the model has no such site")
    for name, value in parameters.items():
        if name not in tensors:
            raise InputError(f"adapter tensor {name!r} is missing")
        if tensors[name].shape != value.shape:
            raise InputError(
                f"adapter tensor {name!r} has shape {list(tensors[name].shape)}, "
                f"the model needs {list(value.shape)}"
            )
    for name, value in parameters.items():
        value.copy_(tensors[name])


def _start(model: nn.Module, name: str, config: AdapterConfig, generator: Generator) -> Factors:
    host = _linear_at(model, name)
    make = polar if isinstance(config, PoLAR) else kaiming_zero
    try:
        return make(host.out_features, host.in_features, config.r, generator)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _linear_at(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    if type(module) is not nn.Linear:
        raise InputError(f"{name} is a {type(module).__name__}, only nn.Linear can be adapted")
    return module


def _freeze_hosts(model: nn.Module) -> None:
    adapters = {id(value) for site in find_sites(model) for value in site.trainable().values()}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad_(False)


def _named_sites(model: nn.Module) -> list[tuple[str, LowRank]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LowRank)]


def _named_parameters(sites: Sequence[LowRank]) -> dict[str, nn.Parameter]:
    return {
        f"{site.name}.{key}": value for site in sites for key, value in site.trainable().items()
    }


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
