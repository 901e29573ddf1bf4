"""Put adapters into a model, take them out, merge them, and name their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from bayeslora.adapters.config import AdapterConfig, LoRA
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.start import start
from bayeslora.adapters.stats import SecondMoment
from bayeslora.adapters.targets import find_targets
from bayeslora.errors import InputError


def inject(
    model: nn.Module,
    config: AdapterConfig,
    seed: int,
    *,
    moments: Mapping[str, SecondMoment] | None = None,
    blank: bool = False,
) -> list[LowRank]:
    """Replace linear layers of `model` by adapted ones, in place, and freeze all the rest.

    The model computes the same function as before until the adapters are trained.

    Args:
        model: The host; every parameter that is not an adapter's stops requiring a gradient.
        config: The adapter's options.
        seed: Of the random start; the same seed gives the same factors.
        moments: Second moments of the inputs of the adapted layers by name, which CorDA needs.
        blank: Whether to leave out the work of a start that is read off the weights, and begin
            with zeros, because the adapter's tensors will be loaded.

    Returns:
        The sites, in the model's own order.

    Raises:
        InputError: See `find_targets`; or the rank exceeds a layer's size, or a second moment is
            missing. The model is then left as it was.
    """
    names = find_targets(model, config.target_modules, config.num_layers)
    return inject_at(model, names, config, seed, moments=moments, blank=blank)


def inject_at(
    model: nn.Module,
    names: Sequence[str],
    config: AdapterConfig,
    seed: int,
    *,
    moments: Mapping[str, SecondMoment] | None = None,
    blank: bool = False,
) -> list[LowRank]:
    """Do what `inject` does, on the linear layers with these very names.

    Raises:
        InputError: The rank exceeds a layer's size.
    """
    generator = Generator().manual_seed(seed)
    hosts = {name: _linear_at(model, name) for name in names}
    starts = [
        start(name, host, config, generator, moments=moments, blank=blank)
        for name, host in hosts.items()
    ]
    dropout = config.dropout if isinstance(config, LoRA) else 0.0
    sites = [
        LowRank(name, host, factors, config.scale, dropout)
        for (name, host), factors in zip(hosts.items(), starts, strict=True)
    ]
    return put(model, sites)


def put(model: nn.Module, sites: Sequence[LowRank]) -> list[LowRank]:
    """Put sites in the places that they are named after, freeze all the rest, and return them.

    They come back in the model's own order.
    """
    for site in sites:
        _replace(model, site.name, site)
    _freeze_hosts(model)
    names = {site.name for site in sites}
    return [site for site in find_sites(model) if site.name in names]


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
    """Return copies of all adapter tensors on the CPU, named `<module>.A`, `.B` and `.core`.

    Where the change is measured from a start, that is there as `.A0` and `.B0`.
    """
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in _named_tensors(sites).items()
    }


@torch.no_grad()
def load_adapter_state(sites: Sequence[LowRank], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors named as by `adapter_state` into the sites; all of them or none.

    Raises:
        InputError: A tensor is missing, unexpected or of the wrong shape; the message names it.
    """
    own = _named_tensors(sites)
    for name in tensors:
        if name not in own:
            raise InputError(f"unexpected adapter tensor {name!r}: the model has no such site")
    for name, value in own.items():
        if name not in tensors:
            raise InputError(f"adapter tensor {name!r} is missing")
        if tensors[name].shape != value.shape:
            raise InputError(
                f"adapter tensor {name!r} has shape {list(tensors[name].shape)}, "
                f"the model needs {list(value.shape)}"
            )
    for name, value in own.items():
        value.copy_(tensors[name])


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


def _named_tensors(sites: Sequence[LowRank]) -> dict[str, Tensor]:
    return {f"{site.name}.{key}": value for site in sites for key, value in site.tensors().items()}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
