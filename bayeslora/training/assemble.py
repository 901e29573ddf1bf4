"""Putting a network together from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.config_columns import LEARNED, S2FT
from bayeslora.adapters.config_lisa import LISA
from bayeslora.adapters.config_none import Frozen
from bayeslora.adapters.config_starts import CorDA
from bayeslora.adapters.full_layers import FullLayers, first_layer
from bayeslora.adapters.inject import inject, lay_out
from bayeslora.adapters.selection import free_units, units_at
from bayeslora.adapters.targets import first_adapted_layer, split_at_layer
from bayeslora.backbones.encoder import POOLING, Encoder, Pooling
from bayeslora.backbones.load import Backbone
from bayeslora.errors import InputError
from bayeslora.layer_list import find_layers
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.build import build, build_weights, check_factors
from bayeslora.training.last_layer import check_last_layer
from bayeslora.training.network import Network, under


def build_network(
    backbone: Backbone,
    adapter: Adapter,
    posterior: Posterior,
    *,
    num_classes: int,
    seed: int,
    max_length: int,
    extra: Mapping[str, Any] | None = None,
    trained: Mapping[str, Tensor] | None = None,
) -> Network:
    """Return a fresh network on a clone of `backbone`, whose tensors are shared, not copied.

    Args:
        backbone: Frozen; it stays without adapters.
        adapter: Which adapter, where, how large.
        posterior: Which last layer.
        num_classes: C.
        seed: Of the adapter's start and of the last layer's draws.
        max_length: Tokens kept of a text.
        extra: `extra_config()` of a fitted head whose tensors, and those of a fitted posterior,
            will be loaded.
        trained: `trained_state()` of that network; columns that it trains are then known.

    Raises:
        InputError: The adapter does not fit the backbone or the posterior, or the posterior does
            not fit the network.
    """
    chosen = adapter_for(adapter, posterior)
    clone = backbone.clone()
    if isinstance(chosen, Frozen):
        head = build(posterior, backbone.num_features, num_classes, seed=seed, extra=extra)
        return Network(_frozen(clone, chosen, max_length), [], head).to(backbone.device)
    if isinstance(chosen, LISA):
        encoder, full = _full(clone, chosen, max_length)
        head = build(posterior, backbone.num_features, num_classes, seed=seed, extra=extra)
        network = Network(encoder, [], head, full)
        network.weights = build_weights(posterior, network, seed)
        return network.to(backbone.device)
    # What was fitted is never decomposed again: a random start would come out another. What starts
    # from a context begins once that has been run, through this very network.
    blank = extra is not None or _is_learned(chosen)
    sites = inject(clone.model, chosen, seed, blank=blank)
    if extra is None and isinstance(chosen, S2FT):
        # Columns that rows choose are chosen once the frozen layers have run.
        free_units(units_at(clone.model, [site.name for site in sites], chosen), chosen)
    lay_out(sites, under("adapter.", trained or {}))
    names = [site.name for site in sites]
    encoder = Encoder(
        clone,
        layers_path=_layers_path(names),
        start=first_adapted_layer(names),
        max_length=max_length,
    )
    if posterior.calls_once:
        _check_called_once(encoder, names, posterior)
    head = build(posterior, backbone.num_features, num_classes, seed=seed, extra=extra)
    network = Network(encoder, sites, head)
    network.weights = build_weights(posterior, network, seed, fitted=extra is not None)
    return network.to(backbone.device)


def pooling_of(backbone: Backbone, adapter: Adapter) -> Pooling:
    """Return which state of a text is its feature beside an adapter, or without one."""
    if not isinstance(adapter, Frozen):
        return POOLING[backbone.kind]
    reads_end = backbone.kind == "decoder" and backbone.template is not None
    auto: Pooling = "last" if reads_end else "mean"
    found: dict[str, Pooling] = {"auto": auto, "last": "last", "mean": "mean"}
    return found[adapter.pooling]


def _frozen(clone: Backbone, config: Frozen, max_length: int) -> Encoder:
    """Return the encoder of a backbone that nothing changes.

    Of one that is cut, states before the last layer are kept, from where the layers above can go
    on; of a whole one none need be.
    """
    pooling = pooling_of(clone, config)
    path, start = ("", 0) if clone.depth is None else (find_layers(clone.model)[0], clone.depth - 1)
    return Encoder(clone, layers_path=path, start=start, max_length=max_length, pooling=pooling)


def _full(clone: Backbone, config: LISA, max_length: int) -> tuple[Encoder, FullLayers]:
    """Return the encoder of a clone whose upper layers may train, and those layers."""
    path, layers = find_layers(clone.model)
    start = 0 if config.train_embedding else first_layer(config, len(layers))
    encoder = Encoder(clone, layers_path=path, start=start, max_length=max_length)
    return encoder, FullLayers(clone.model, config, encoder.behind())


def adapter_for(adapter: Adapter, posterior: Posterior) -> Adapter:
    """Return the adapter as the posterior needs it, such as with a dropout.

    Raises:
        InputError: The two cannot go together.
    """
    if not adapter.trains:
        check_last_layer(posterior, adapted=False)
        return adapter
    check_factors(posterior, low_rank=adapter.has_factors)
    return posterior.adapter_for(adapter)


def _is_learned(adapter: Adapter) -> bool:
    """Tell whether an adapter begins once texts have been run."""
    return isinstance(adapter, CorDA) or (
        isinstance(adapter, S2FT) and adapter.selection in LEARNED
    )


def _check_called_once(encoder: Encoder, names: Sequence[str], posterior: Posterior) -> None:
    calls = encoder.count_calls()
    shared = [name for name in names if calls[name] > 1]
    if shared:
        raise InputError(
            f"layers of {encoder.backbone.name} share their weights: {shared[0]} is called "
            f"{calls[shared[0]]} times in a pass. Posterior {posterior.name!r} draws or measures "
            "weights at each call, as if they were different ones; choose a posterior of the last "
            "layer, 'ensemble', 'swag', 'tfb' or 'ivon'"
        )


def _layers_path(names: Sequence[str]) -> str:
    """Return the dotted name of the list of layers that the first of `names` in one is in.

    Empty where none is; the frozen prefix is then empty too.
    """
    return next((found[0] for found in map(split_at_layer, names) if found), "")
