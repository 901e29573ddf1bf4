"""Put adapters into a model, take them out, merge them, and name their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.site import Site
from bayeslora.adapters.stats import SecondMoment
from bayeslora.errors import InputError


def inject(
    model: nn.Module,
    config: Adapter,
    seed: int,
    *,
    moments: Mapping[str, SecondMoment] | None = None,
    blank: bool = False,
) -> list[Site]:
    """Replace linear layers of `model` by adapted ones, in place, and freeze all the rest.

    The model computes the same function as before until the adapters are trained.

    Args:
        model: The host; every parameter that is not an adapter's stops requiring a gradient.
        config: The adapter's options.
        seed: Of the random start; the same seed gives the same factors.
        moments: Second moments of the inputs of the adapted layers by name, which CorDA needs, and
            S²FT where it selects by them.
        blank: Whether to leave out the work of a start that is read off the weights, and begin
            with zeros, or no columns, because the adapter's tensors will be loaded.

    Returns:
        The sites, in the model's own order.

    Raises:
        InputError: See `find_targets`; or the rank exceeds a layer's size, or a second moment is
            missing; or S²FT selects by gradients. The model is then left as it was.
    """
    return inject_at(model, config.targets(model), config, seed, moments=moments, blank=blank)


def inject_at(
    model: nn.Module,
    names: Sequence[str],
    config: Adapter,
    seed: int,
    *,
    moments: Mapping[str, SecondMoment] | None = None,
    blank: bool = False,
) -> list[Site]:
    """Do what `inject` does, on the linear layers with these very names.

    Raises:
        InputError: The rank exceeds a layer's size, or heads cannot be told apart.
    """
    hosts = {name: linear_at(model, name) for name in names}
    generator = Generator().manual_seed(seed)
    return put(model, config.make_sites(model, hosts, generator, moments=moments, blank=blank))


def put(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """Put sites in the places that they are named after, freeze all the rest, and return them.

    They come back in the model's own order.
    """
    for site in sites:
        _replace(model, site.name, site)
    _freeze_hosts(model)
    names = {site.name for site in sites}
    return [site for site in find_sites(model) if site.name in names]


def find_sites(model: nn.Module) -> list[Site]:
    """Return the adapters inside `model`, in its own order."""
    return [module for module in model.modules() if isinstance(module, Site)]


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


def adapter_state(sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return copies of all adapter tensors on the CPU, named `<module>.A`, `.B` and `.core`.

    Where the change is measured from a start, that is there as `.A0` and `.B0`. Of columns there
    are `.sel` and `.idx`.
    """
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in _named_tensors(sites).items()
    }


@torch.no_grad()
def load_adapter_state(sites: Sequence[Site], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors named as by `adapter_state` into the sites; all of them or none.

    Sites of columns take the columns that are named there.

    Raises:
        InputError: A tensor is missing, unexpected or of the wrong shape, or columns are not those
            of a weight; the message names it.
    """
    own = _named_tensors(sites)
    stored = [_of_site(site, tensors) for site in sites]
    for name in tensors:
        if name not in own:
            raise InputError(f"unexpected adapter tensor {name!r}: the model has no such site")
    needed = {
        f"{site.name}.{key}": shape
        for site, items in zip(sites, stored, strict=True)
        for key, shape in site.shapes(items).items()
    }
    for name, shape in needed.items():
        if name not in tensors:
            raise InputError(f"adapter tensor {name!r} is missing")
        if tensors[name].shape != shape:
            raise InputError(
                f"adapter tensor {name!r} has shape {list(tensors[name].shape)}, "
                f"the model needs {list(shape)}"
            )
    lay_out(sites, tensors)
    for name, value in _named_tensors(sites).items():
        value.copy_(tensors[name])


def lay_out(sites: Sequence[Site], tensors: Mapping[str, Tensor]) -> None:
    """Give sites the shapes that tensors named as by `adapter_state` have.

    Only what a file decides changes: the columns of S²FT.

    Raises:
        InputError: Columns are not those of the site's weight.
    """
    for site in sites:
        site.resize(_of_site(site, tensors))


def _of_site(site: Site, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one site by the names that it has for them."""
    keys = site.tensors().keys()
    return {key: tensors[name] for key in keys if (name := f"{site.name}.{key}") in tensors}


def linear_at(model: nn.Module, name: str) -> nn.Linear:
    """Return a layer by its dotted path.

    Raises:
        InputError: It is not there, or not a plain linear layer.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise InputError(f"the model has no layer {name}") from None
    if type(module) is not nn.Linear:
        raise InputError(f"{name} is a {type(module).__name__}, only nn.Linear can be adapted")
    return module


def _freeze_hosts(model: nn.Module) -> None:
    adapters = {id(value) for site in find_sites(model) for value in site.trainable().values()}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad_(False)


def _named_sites(model: nn.Module) -> list[tuple[str, Site]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Site)]


def _named_tensors(sites: Sequence[Site]) -> dict[str, Tensor]:
    return {f"{site.name}.{key}": value for site in sites for key, value in site.tensors().items()}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
