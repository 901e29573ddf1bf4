"""From a configuration to the last layer that it describes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bayeslora.adapters.site import LowRank
from bayeslora.errors import InputError
from bayeslora.posteriors.blob import BLoBWeights
from bayeslora.posteriors.config import MAP, VBLL, Laplace, PosteriorConfig, TemperatureScaling
from bayeslora.posteriors.config_laplace_lora import LaplaceLoRA
from bayeslora.posteriors.config_nuts import NUTS
from bayeslora.posteriors.config_variational import BLoB, ScalaBL
from bayeslora.posteriors.config_weights import IVON, SWAG, TFB
from bayeslora.posteriors.covariances import shapes
from bayeslora.posteriors.ivon import IVONWeights
from bayeslora.posteriors.laplace import LaplaceHead
from bayeslora.posteriors.laplace_lora import LaplaceLoRAWeights
from bayeslora.posteriors.nuts import NUTSHead
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.scalabl import ScalaBLWeights
from bayeslora.posteriors.swag import SWAGWeights
from bayeslora.posteriors.tempered import TemperedHead
from bayeslora.posteriors.tfb import TFBWeights
from bayeslora.posteriors.vbll import VBLLHead

logger = logging.getLogger(__name__)

# A covariance is held a few times over while it is fitted.
_MOST_BYTES = 1 << 30
_SIMPLER = {"full": "dense", "dense": "diagonal"}
# Other numbers than those that the adapters start from.
_SEED_STEP = 1 << 32

Head = PointHead | VBLLHead | LaplaceHead | NUTSHead
Weights = SWAGWeights | TFBWeights | BLoBWeights | IVONWeights | ScalaBLWeights | LaplaceLoRAWeights


def build(
    config: PosteriorConfig,
    num_features: int,
    num_classes: int,
    *,
    mean_sq_norm: float = 1.0,
    seed: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Head:
    """Return the head of a configuration: an `nn.Module` that satisfies `LastLayer`.

    Posteriors that are random in other weights have a plain MLE head.

    Args:
        config: Which posterior, with its options.
        num_features: d, the constant column included where there is one.
        num_classes: C.
        mean_sq_norm: Mean ‖φ‖² of the training features when training starts.
        seed: Of the draws that a sampled bound takes, and of Markov chains.
        extra: `extra_config()` of a fitted head, to load its state into the new one.

    Raises:
        InputError: `extra` is not what `extra_config()` of such a head returns, or a bound is not
            for so many classes.
    """
    head: Head
    if isinstance(config, VBLL):
        _check_quadrature(config, num_classes)
        config = affordable(config, num_features, num_classes)
        head = VBLLHead(config, num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)
    elif isinstance(config, Laplace):
        head = LaplaceHead(config, num_features, num_classes, mean_sq_norm=mean_sq_norm)
    elif isinstance(config, NUTS):
        head = NUTSHead(config, num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)
    elif isinstance(config, TemperatureScaling):
        head = TemperedHead(num_features, num_classes)
    else:
        scale = config.prior_scale if isinstance(config, MAP) else None
        head = PointHead(num_features, num_classes, prior_scale=scale, mean_sq_norm=mean_sq_norm)
    try:
        head.prepare(extra or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the record of a fitted {config.name} head is damaged: {error}") from None
    return head


def build_weights(
    config: PosteriorConfig, sites: Sequence[LowRank], head: Head, seed: int = 0
) -> Weights | None:
    """Return the posterior over adapter weights of a configuration, an `nn.Module`.

    It has `draw`, except for a Laplace approximation, which is linearised instead. None where the
    configuration has none, or where its draws need no tensors of their own (MC dropout, ensembles).

    Args:
        config: Which posterior, with its options.
        sites: The adapters, inside their model already.
        head: The last layer.
        seed: Of a random start.

    Raises:
        InputError: There are too many weights for the structure that was asked for.
    """
    weights: Weights | None = None
    if isinstance(config, LaplaceLoRA):
        classes, width = head.mean_weight.shape
        weights = LaplaceLoRAWeights(config, sites, (classes, width))
    elif isinstance(config, SWAG):
        adapter = [item for site in sites for item in site.trainable().values()]
        weights = SWAGWeights(config, [*adapter, *head.parameters()])
    elif isinstance(config, TFB):
        weights = TFBWeights(sites)
    elif isinstance(config, BLoB):
        weights = BLoBWeights(config, sites, seed + _SEED_STEP)
    elif isinstance(config, IVON):
        weights = IVONWeights(config, sites)
    elif isinstance(config, ScalaBL):
        weights = ScalaBLWeights(config, sites, seed + _SEED_STEP)
    return weights


def affordable(config: VBLL, num_features: int, num_classes: int) -> VBLL:
    """Return the configuration with simpler covariances where those asked for would not fit.

    More directions than features say nothing more than as many.

    Args:
        config: What was asked for.
        num_features: d.
        num_classes: C.
    """

    def fitting(family: str) -> str:
        return _fitting(family, num_classes, num_features, config.rank)

    return replace(
        config,
        rank=min(config.rank, num_features),
        covariance=fitting(config.covariance),
        training_covariance=fitting(config.training_covariance),
    )


def _fitting(family: str, num_classes: int, num_features: int, rank: int) -> str:
    """Return the family, or the next simpler one that fits."""
    numbers = sum(map(math.prod, shapes(family, num_classes, num_features, rank).values()))
    if family not in _SIMPLER or 8 * numbers <= _MOST_BYTES:
        return family
    logger.warning(
        "a %s covariance of %d classes and %d features would take %.1f GiB; taking a %s one",
        family,
        num_classes,
        num_features,
        8 * numbers / 2**30,
        _SIMPLER[family],
    )
    return _fitting(_SIMPLER[family], num_classes, num_features, rank)


def _check_quadrature(config: VBLL, num_classes: int) -> None:
    for field in ("bound", "polish_bound"):
        if getattr(config, field) == "gauss_hermite" and num_classes != 2:
            raise InputError(f"{field} 'gauss_hermite' is for two classes, not {num_classes}")
