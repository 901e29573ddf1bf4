"""Putting a network together from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.inject import inject, lay_out
from bayeslora.adapters.site import Site
from bayeslora.backbones.encoder import POOLING, Encoder
from bayeslora.backbones.load import Backbone
from bayeslora.errors import InputError
from bayeslora.option_checks import Pooling
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
    sites = _sites(clone, chosen, seed, is_fresh=extra is None)
    lay_out(sites, under("adapter.", trained or {}))
    names = [site.name for site in sites]
    path, start = chosen.first_layer(clone.model, names, is_cut=clone.depth is not None)
    encoder = Encoder(
        clone,
        layers_path=path,
        start=start,
        max_length=max_length,
        pooling=pooling_of(clone, chosen),
    )
    full = chosen.full_layers(clone.model, encoder.behind)
    if sites and posterior.calls_once:
        _check_called_once(encoder, names, posterior)
    head = build(posterior, backbone.num_features, num_classes, seed=seed, extra=extra)
    network = Network(encoder, sites, head, full)
    if chosen.trains:
        network.weights = build_weights(posterior, network, seed, fitted=extra is not None)
    return network.to(backbone.device)


def _sites(clone: Backbone, adapter: Adapter, seed: int, *, is_fresh: bool) -> list[Site]:
    """Return the sites of an adapter, put into a backbone.

    What was fitted is never decomposed again: a random start would come out another. What starts
    from rows begins once they have been run, through the network of these very sites.
    """
    if not adapter.has_sites:
        return []
    blank = not is_fresh or adapter.starts_from_rows
    sites = inject(clone.model, adapter, seed, blank=blank)
    if is_fresh:
        adapter.check_start(clone.model, [site.name for site in sites])
    return sites


def pooling_of(backbone: Backbone, adapter: Adapter) -> Pooling:
    """Return which state of a text is its feature beside an adapter, or without one."""
    reads_end = backbone.kind == "decoder" and backbone.template is not None
    return adapter.pooling_of(POOLING[backbone.kind], reads_end=reads_end)


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
