"""Putting a network together from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.config import LoRA, PoLAR
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
from bayeslora.posteriors.config import MCDropout
from bayeslora.posteriors.config_variational import CLoRA, ScalaBL
from bayeslora.posteriors.config_weights import IVON
from bayeslora.posteriors.dropout import MCDropoutDraws
from bayeslora.posteriors.laplace_lora import LaplaceLoRAWeights
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
        InputError: The adapter does not fit the backbone or the posterior, or nothing that is to
            be dropped while predicting is there.
    """
    _check_adapter(adapter, posterior)
    clone = backbone.clone()
    chosen = with_dropout(adapter, posterior)
    if isinstance(chosen, Frozen):
        head = build(posterior, backbone.num_features, num_classes, seed=seed, extra=extra)
        return Network(_frozen(clone, chosen, max_length), [], head).to(backbone.device)
    if isinstance(chosen, LISA):
        encoder, full = _full(clone, chosen, max_length)
        head = build(posterior, backbone.num_features, num_classes, seed=seed, extra=extra)
        draws = _live_dropout(encoder, chosen) if isinstance(posterior, MCDropout) else None
        return Network(encoder, [], head, draws, full).to(backbone.device)
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
    weights = build_weights(posterior, sites, head, seed)
    if isinstance(posterior, MCDropout):
        weights = _live_dropout(encoder, chosen)
    if extra is not None and isinstance(weights, LaplaceLoRAWeights):
        weights.prepare()
    return Network(encoder, sites, head, weights).to(backbone.device)


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


def with_dropout(adapter: Adapter, posterior: Posterior) -> Adapter:
    """Return the adapter with the dropout that MC dropout asks for, where it can have one.

    Raises:
        InputError: A probability is asked for that the adapter has no place for, or has already
            as another one.
    """
    if not isinstance(posterior, MCDropout):
        return adapter
    if isinstance(adapter, LoRA):
        if adapter.dropout not in (0.0, posterior.p):
            raise InputError(
                f"dropout={adapter.dropout:g} of adapter 'lora' and p={posterior.p:g} of posterior "
                "'mc_dropout' are one dropout; leave dropout out, or give both the same value"
            )
        return replace(adapter, dropout=posterior.p)
    if posterior.p != MCDropout.p:
        raise InputError(
            f"p={posterior.p:g} of posterior 'mc_dropout' is the dropout probability of adapter "
            f"'lora', and {adapter.name!r} has no dropout of its own; leave p out, and the "
            "backbone's dropout is sampled, or choose 'lora'"
        )
    return adapter


def _live_dropout(encoder: Encoder, adapter: Adapter) -> MCDropoutDraws:
    """Return draws from the dropouts that a pass after the frozen prefix runs."""
    try:
        return MCDropoutDraws(encoder.model, encoder.run_probe, encoder.running())
    except InputError:
        first = encoder.first_running_layer
        where = f"from layer {first} on, the first that runs then," if first else "of the backbone"
        raise InputError(
            "posterior 'mc_dropout' needs a dropout that is live at prediction: adapter "
            f"{adapter.name!r} is defined without, and no layer {where} has a dropout probability "
            "> 0; choose 'lora', or a backbone whose configuration has one (hidden_dropout_prob)"
        ) from None


def _is_learned(adapter: Adapter) -> bool:
    """Tell whether an adapter begins once texts have been run."""
    return isinstance(adapter, CorDA) or (
        isinstance(adapter, S2FT) and adapter.selection in LEARNED
    )


def _check_adapter(adapter: Adapter, posterior: Posterior) -> None:
    if not adapter.trains:
        check_last_layer(posterior, adapted=False)
        return
    check_factors(posterior, low_rank=adapter.has_factors)
    if isinstance(posterior, IVON) and adapter.weight_decay:
        raise InputError(
            f"posterior 'ivon' moves the weights by an optimiser with a weight_decay of its own "
            f"(ivon:weight_decay={adapter.weight_decay:g}); leave that of adapter "
            f"{adapter.name!r} out, got {adapter.weight_decay:g}"
        )
    centred = adapter.from_weight
    if isinstance(posterior, ScalaBL) and not adapter.is_free:
        why = "starts from a part of the pretrained weight, which a prior around 0 would shrink"
        raise InputError(
            f"posterior 'scalabl' scales the free first factor of adapter 'lora'; {adapter.name!r} "
            + (why if centred else "has none")
        )
    if isinstance(posterior, IVON) and posterior.weight_decay and centred:
        raise InputError(
            f"weight_decay of posterior 'ivon' is a prior around 0, and {adapter.name!r} starts "
            "from a part of the pretrained weight, which it would shrink; leave it at 0, or choose "
            f"'lora', got {posterior.weight_decay!r}"
        )
    if isinstance(posterior, CLoRA):
        _check_gate(adapter)


def _check_gate(adapter: Adapter) -> None:
    if adapter.from_weight:
        raise InputError(
            f"posterior 'clora' puts noise between the factors, and those of {adapter.name!r} "
            "carry a part of the pretrained weight, which would be noisy from the start; choose "
            "'lora' or 'polar'"
        )
    if isinstance(adapter, PoLAR) and adapter.constraint != "retraction" and adapter.absorb_every:
        raise InputError(
            "posterior 'clora' puts a gate between PoLAR's factors, and moving their drift past it "
            f"into the core (constraint {adapter.constraint!r}, absorb_every="
            f"{adapter.absorb_every}) would change what the network computes; choose "
            "constraint='retraction' or absorb_every=0"
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
