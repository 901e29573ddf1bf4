"""Families of covariances by name, the cost of their closed-form fits, and memory limits.

A round of coordinate ascent over a dense covariance forms C matrices Σ_n w_nc φ_n φ_nᵀ, factorises
them and solves for N rows, see `Covariance.multiplications`. In addition, every family takes
`MEAN_STEPS` products of N rows with C weights in the search for the means, and C N tilts. These are
the leading terms of the current code, to be retuned with it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayeslora.posteriors.cost import FitCost
from bayeslora.posteriors.last_layer.vbll.covariance import Covariance, Trainable
from bayeslora.posteriors.last_layer.vbll.independent import Diagonal, Eigenbasis
from bayeslora.posteriors.last_layer.vbll.low_rank import DiagonalPlusLowRank
from bayeslora.posteriors.last_layer.vbll.triangular import Dense, Full

if TYPE_CHECKING:
    from bayeslora.posteriors.last_layer.vbll.options import VBLL

logger = logging.getLogger(__name__)

# A fit holds a few copies of a covariance.
_MOST_BYTES = 1 << 30

MEAN_STEPS = 120
"""Products of rows and weights per round in the search for the means."""

TILT = 4e4
"""Cost of a tilt of the bound per round, in multiplications of a matrix product: Newton's method
over special functions. Measured 3e4 to 4e4; it matters for many classes and few features."""

TRAINABLE: dict[str, type[Trainable]] = {
    family.name: family for family in (Dense, Diagonal, Full, DiagonalPlusLowRank)
}
"""Families that gradient steps can move."""

FAMILIES: dict[str, type[Covariance]] = {**TRAINABLE, Eigenbasis.name: Eigenbasis}


def fit_cost(config: VBLL, num_classes: int, num_features: int, num_rows: int) -> FitCost:
    """Return the cost of a fit with the covariance of `config`, dense for `auto`.

    Args:
        config: Covariance and, for `low_rank`, number of directions.
        num_classes: C.
        num_features: d.
        num_rows: N.
    """
    family = FAMILIES[config.with_family("dense").covariance]
    num_stored = family.numbers_stored(num_classes, num_features, min(config.rank, num_features))
    work = float(num_classes * num_rows * (MEAN_STEPS * num_features + TILT))
    work += family.multiplications(num_classes, num_rows, min(num_rows, num_features))
    return FitCost(work, num_stored)


def affordable_covariance(config: VBLL, num_features: int, num_classes: int) -> VBLL:
    """Return the configuration, with simpler covariances if the requested ones would not fit.

    The number of directions is limited to the number of features: more add nothing.

    Args:
        config: Requested configuration.
        num_features: d.
        num_classes: C.
    """
    config = config.with_family("dense")
    sizes = (num_classes, num_features)
    return replace(
        config,
        rank=min(config.rank, num_features),
        covariance=_fitting(config.covariance, config, sizes, training=False),
        training_covariance=_fitting(config.training_covariance, config, sizes, training=True),
    )


def _fitting(name: str, config: VBLL, sizes: tuple[int, int], *, training: bool) -> Any:
    """Return a family, or a simpler one that fits into memory, and log the change."""
    family, (classes, features) = FAMILIES[name], sizes
    numbers = sum(map(math.prod, family.shapes(classes, features, config.rank).values()))
    if not training or config.head_step == "refit":
        numbers = max(numbers, family.numbers_in_fit(classes, features))
    simpler = family.simpler_in_training if training else family.simpler
    if simpler is None or 8 * numbers <= _MOST_BYTES:
        return name
    logger.warning(
        "covariance=%s of %d classes and %d features would take %.1f GiB; using covariance=%s "
        "instead",
        name,
        classes,
        features,
        8 * numbers / 2**30,
        simpler.name,
    )
    return _fitting(simpler.name, config, sizes, training=training)
