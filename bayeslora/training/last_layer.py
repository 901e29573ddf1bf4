"""Which posteriors a finished network can be given, and their start at given weights."""

from __future__ import annotations

from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.posteriors.build import Head, build
from bayeslora.posteriors.config import Ensemble, PosteriorConfig, Sampled
from bayeslora.posteriors.config_laplace_lora import LaplaceLoRA

# What a finished network cannot give to posteriors that are not of the last layer.
_NEEDS = {
    "ensemble": "consists of several trained networks",
    "mc_dropout": "runs a network that was trained with dropout, and learns nothing from rows",
    "swag": "averages the weights that training passes through",
    "tfb": "is searched for around adapters trained here",
    "blob": "is trained together with the adapter",
    "ivon": "is trained together with the adapter",
    "scalabl": "is trained together with the adapter",
    "clora": "is trained together with the adapter",
}


def last_layer(posterior: PosteriorConfig, weight: Tensor, seed: int = 0) -> Head:
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


def check_last_layer(
    posterior: PosteriorConfig,
    *,
    adapted: bool = True,
    with_sites: bool = True,
    gated: bool = False,
) -> None:
    """Complain about a posterior that cannot be fitted to a finished network.

    Args:
        posterior: Which one.
        adapted: Whether the network was adapted here.
        with_sites: Whether that was by adapters, not by training whole layers.
        gated: Whether they work through the gates of a posterior over their weights.

    Raises:
        InputError: The posterior is neither one of the last layer nor a Laplace approximation over
            adapters that are there; or what it would replace has gates that the network cannot do
            without.
    """
    if gated:
        raise InputError(
            "a network fitted with posterior 'clora' cannot be calibrated or given another "
            "posterior: its adapters work through gates that are part of 'clora' and would be "
            "lost; fit the other posterior from the start"
        )
    if isinstance(posterior, LaplaceLoRA) and not adapted:
        raise InputError(
            f"posterior {posterior.name!r} is over the weights of an adapter of ours, and a "
            "classifier from elsewhere has none, also where it is a LoRA checkpoint, which is "
            "merged when it is read; choose 'laplace', which is over the last layer"
        )
    if isinstance(posterior, LaplaceLoRA) and not with_sites:
        raise InputError(
            f"posterior {posterior.name!r} is over the factors of an adapter, and this network's "
            "own layers were trained; choose 'laplace', which is over the last layer"
        )
    if isinstance(posterior, Ensemble | Sampled):
        raise InputError(
            f"posterior {posterior.name!r} is not one of the last layer and cannot be fitted to a "
            f"finished network: it {_NEEDS[posterior.name]}; fit a network with it from the start, "
            "or choose 'laplace', 'vbll', 'nuts' or 'temperature'"
        )
