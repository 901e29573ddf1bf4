"""Choose the linear layers to adapt, insert adapters, merge them, save and load their tensors."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
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


DEFAULT_TARGETS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, OPT, BART
    ("query", "value"),  # BERT, RoBERTa, ELECTRA, ALBERT
    ("query_proj", "value_proj"),  # DeBERTa-v2 and -v3
    ("q_lin", "v_lin"),  # DistilBERT
    ("Wqkv",),  # ModernBERT, MPT: query, key and value in one matrix
    ("query_key_value",),  # GPT-NeoX, BLOOM
    ("qkv_proj",),  # Phi-3
    ("in_proj",),  # DeBERTa
    ("q", "v"),  # T5, MPNet
    ("c_attn",),  # GPT-2: recognised, then refused, because its layers are not linear layers
)
"""Names of query and value projections by architecture; the first matching set wins."""

_OUTPUT_LAYERS = frozenset({"lm_head", "embed_out"})
"""Layers that often share their weight with the embedding; adapted only if named."""


def find_targets(
    model: nn.Module, target_modules: Sequence[str] | None = None, num_layers: int | None = None
) -> list[str]:
    """Return the dotted names of the linear layers to adapt, in the model's own order.

    Args:
        model: The host.
        target_modules: Suffixes of dotted names (`q_proj`, `self_attn.q_proj`) or regular
            expressions of whole names; `None` takes the first of `DEFAULT_TARGETS` that the
            model has.
        num_layers: Keep only the last `num_layers` layers of a list of transformer layers;
            `None`, or more layers than the list has, keeps all.

    Raises:
        InputError: An entry matches nothing, matches no plain linear layer, or is not a regular
            expression; a layer already has an adapter; no layer is left.
    """
    modules = _candidates(model)
    patterns = target_modules
    if patterns is None:
        known = (
            targets
            for targets in DEFAULT_TARGETS
            if all(any(_ends_with(name, target) for name in modules) for target in targets)
        )
        patterns = next(known, ())
        if not patterns:
            raise no_default(modules)
    chosen = {name for pattern in patterns for name in _matches(modules, pattern)}
    targets = [name for name in modules if name in chosen and _is_on_top(model, name, num_layers)]
    if not targets:
        raise InputError(
            f"target_modules {tuple(patterns)} match {len(chosen)} modules, but none in the last "
            f"{num_layers} layers; raise num_layers or pass None for all"
        )
    return targets


def split_at_layer(name: str) -> tuple[str, int] | None:
    """Return the list of transformer layers that contains a dotted name, and the layer's index.

    The index is the first numeric part, the list everything before it: `encoder.layer` and 3 for
    `encoder.layer.3.attention.self.query`. `None` without a number, as for `pooler.dense`.
    """
    parts = name.split(".")
    index = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return None if index is None else (".".join(parts[:index]), int(parts[index]))


def layers_path(names: Iterable[str]) -> str:
    """Return the dotted name of the list of layers that contains the first of `names` in a list.

    Empty if no name is in a list; no layer can then be run beforehand.
    """
    return next((split[0] for split in map(split_at_layer, names) if split), "")


def first_adapted_layer(names: Iterable[str]) -> int:
    """Return the first transformer layer whose output depends on an adapter.

    The outputs of the layers below it never change while adapters train. The result is 0 if a
    site is outside the layers, since it may act on all of them.
    """
    places = map(split_at_layer, names)
    return min((0 if place is None else place[1] for place in places), default=0)


def _candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Return every named submodule outside adapters."""
    modules: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if not name or name.startswith(inside):
            continue
        modules[name] = module
        if isinstance(module, Site):
            inside = (*inside, f"{name}.")
    return modules


def no_default(modules: Mapping[str, nn.Module]) -> InputError:
    """Return the error for an architecture whose layers to adapt are not known."""
    return InputError(
        "no default target_modules for this architecture; choose from its linear layers: "
        + _linear_endings(modules)
    )


def _matches(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    """Return the plain linear layers that one entry of `target_modules` selects."""
    named = [name for name in modules if _ends_with(name, pattern)]
    not_named = {layer for layer in _OUTPUT_LAYERS if layer not in pattern}
    try:
        named = named or [
            name
            for name in modules
            if re.fullmatch(pattern, name) and name.rsplit(".", 1)[-1] not in not_named
        ]
    except re.error as error:
        raise InputError(
            f"target_modules {pattern!r} is neither the ending of a module name nor a valid "
            f"regular expression: {error}"
        ) from None
    for name in named:
        if isinstance(modules[name], Site):
            raise InputError(f"{name} already has an adapter")
    # No subclasses: quantised layers hold packed weights, and torch's attention modules read the
    # weight of their output layer without calling it.
    linear = [name for name in named if type(modules[name]) is nn.Linear]
    if not linear:
        kinds = ", ".join(sorted({type(modules[name]).__name__ for name in named})) or "no module"
        raise InputError(
            f"target_modules {pattern!r} matches {kinds}, not nn.Linear (Conv1D, as in GPT-2, "
            f"cannot be adapted); linear layers end in {_linear_endings(modules)}"
        )
    return linear


def _linear_endings(modules: Mapping[str, nn.Module]) -> str:
    """Return suffixes that would match linear layers; a numeric one keeps the name before it."""
    endings = {
        ".".join(name.split(".")[-2:]) if name.split(".")[-1].isdigit() else name.split(".")[-1]
        for name, module in modules.items()
        if type(module) is nn.Linear
    }
    return ", ".join(repr(ending) for ending in sorted(endings)) or "(there are none)"


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _is_on_top(model: nn.Module, name: str, num_layers: int | None) -> bool:
    """Return whether a module is outside the list of layers or in its last `num_layers`."""
    split = split_at_layer(name)
    if num_layers is None or split is None:
        return True
    path, number = split
    layers = model.get_submodule(path)
    return not isinstance(layers, nn.ModuleList) or number >= len(layers) - num_layers
