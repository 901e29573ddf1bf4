"""Which posteriors a finished network can be given, and their start at given weights."""

from __future__ import annotations

from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.build import Head, build


def last_layer(posterior: Posterior, weight: Tensor, seed: int = 0) -> Head:
    """Return an unfitted last layer that starts from [C, d] weights.

    Args:
        posterior: Which one; `check_last_layer` says whether it can be.
        weight: [C, d].
        seed: Of its draws.
    """
    classes, width = weight.shape
    head = build(posterior, width, classes, seed=seed)
    head.set_mean(weight)
    return head


def over_adapters(posterior: Posterior) -> bool:
    """Return whether a posterior is fitted to adapters that are trained already."""
    return posterior.over_trained


def check_last_layer(
    posterior: Posterior,
    *,
    adapted: bool = True,
    with_sites: bool = True,
    gated: bool = False,
) -> None:
    """Complain about a posterior that cannot be fitted to a finished network.

    Args:
        posterior: Which one.
        adapted: Whether the network was adapted here, or has the adapters of a checkpoint.
        with_sites: Whether that was by adapters, not by training whole layers.
        gated: Whether they work through the gates of a posterior over their weights.

    Raises:
        InputError: The posterior is neither one of the last layer nor one that is fitted to trained
            adapters, which have to be there; or what it would replace has gates that the network
            cannot do without.
    """
    if gated:
        raise InputError(
            "a network fitted with posterior 'clora' cannot be calibrated or given another "
            "posterior: its adapters work through gates that are part of 'clora' and would be "
            "lost; fit the other posterior from the start"
        )
    if over_adapters(posterior) and not adapted:
        raise InputError(
            f"posterior {posterior.name!r} is over the weights of an adapter, and here is none: "
            "the classifier is neither a model of ours nor a LoRA checkpoint that was loaded for "
            f"it, from_transformers(directory, {posterior.name!r}); choose 'laplace', which is "
            "over the last layer"
        )
    if over_adapters(posterior) and not with_sites:
        raise InputError(
            f"posterior {posterior.name!r} is over the factors of an adapter, and this network's "
            "own layers were trained; choose 'laplace', which is over the last layer"
        )
    reason = posterior.from_start
    if reason:
        over = ", or 'laplace_lora' or 'tfb' over its adapters" if adapted and with_sites else ""
        raise InputError(
            f"posterior {posterior.name!r} is not one of the last layer and cannot be fitted to a "
            f"finished network, or without an adapter (--quick): it {reason}; fit an adapter "
            "with it from the start, or choose 'laplace', 'vbll', 'gvbll', 'nuts' or "
            f"'temperature'{over}"
        )
