"""The last layers that take some making: what `head` of their configurations names.

Each function takes what `bayeslora.posteriors.build.build` passes to every factory of a head.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bayeslora.posteriors.config import MAP, VBLL, Laplace, TemperatureScaling, check_classes
from bayeslora.posteriors.covariances import shapes
from bayeslora.posteriors.laplace import LaplaceHead
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.tempered import TemperedHead
from bayeslora.posteriors.vbll import VBLLHead
from bayeslora.posteriors.vbll_cost import with_family

logger = logging.getLogger(__name__)

# A covariance is held a few times over while it is fitted.
_MOST_BYTES = 1 << 30
_SIMPLER = {"full": "dense", "dense": "eigenbasis", "low_rank": "eigenbasis"}
_SIMPLER_IN_TRAINING = {"full": "dense", "dense": "diagonal", "low_rank": "diagonal"}


def mle(
    config: Any, num_features: int, num_classes: int, *, mean_sq_norm: float, seed: int
) -> PointHead:
    """Return a point estimate without a prior, whatever the configuration."""
    return PointHead(num_features, num_classes, mean_sq_norm=mean_sq_norm)


def map_estimate(
    config: MAP, num_features: int, num_classes: int, *, mean_sq_norm: float, seed: int
) -> PointHead:
    """Return a point estimate under a Gaussian prior."""
    return PointHead(
        num_features, num_classes, prior_scale=config.prior_scale, mean_sq_norm=mean_sq_norm
    )


def tempered(
    config: TemperatureScaling,
    num_features: int,
    num_classes: int,
    *,
    mean_sq_norm: float,
    seed: int,
) -> TemperedHead:
    """Return a point estimate with a temperature."""
    return TemperedHead(num_features, num_classes)


def laplace(
    config: Laplace, num_features: int, num_classes: int, *, mean_sq_norm: float, seed: int
) -> LaplaceHead:
    """Return a Laplace approximation."""
    return LaplaceHead(config, num_features, num_classes, mean_sq_norm=mean_sq_norm)


def vbll(
    config: VBLL, num_features: int, num_classes: int, *, mean_sq_norm: float, seed: int
) -> VBLLHead:
    """Return a variational last layer, with covariances that fit into memory.

    Raises:
        InputError: A bound is not for so many classes.
    """
    check_classes(config, num_classes)
    fitting = affordable_covariance(config, num_features, num_classes)
    return VBLLHead(fitting, num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)


def affordable_covariance(config: VBLL, num_features: int, num_classes: int) -> VBLL:
    """Return the configuration with simpler covariances where those asked for would not fit.

    More directions than features say nothing more than as many.

    Args:
        config: What was asked for.
        num_features: d.
        num_classes: C.
    """
    config = with_family(config, "dense")

    def fitting(family: str, simpler: Mapping[str, str], *, closed_form: bool) -> str:
        numbers = _numbers(family, num_classes, num_features, config.rank, closed_form=closed_form)
        if family not in simpler or 8 * numbers <= _MOST_BYTES:
            return family
        logger.warning(
            "covariance=%s of %d classes and %d features would take %.1f GiB; taking covariance=%s",
            family,
            num_classes,
            num_features,
            8 * numbers / 2**30,
            simpler[family],
        )
        return fitting(simpler[family], simpler, closed_form=closed_form)

    refits = config.head_step == "refit"
    return replace(
        config,
        rank=min(config.rank, num_features),
        covariance=fitting(config.covariance, _SIMPLER, closed_form=True),
        training_covariance=fitting(
            config.training_covariance, _SIMPLER_IN_TRAINING, closed_form=refits
        ),
    )


def _numbers(
    family: str, num_classes: int, num_features: int, rank: int, *, closed_form: bool
) -> int:
    """Return how many numbers a covariance takes, while it is fitted in closed form or after."""
    stored = sum(map(math.prod, shapes(family, num_classes, num_features, rank).values()))
    if family == "low_rank" and closed_form:
        # The fit sees the precisions of all classes at once.
        return max(stored, num_classes * num_features**2)
    return stored
