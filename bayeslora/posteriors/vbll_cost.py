"""What the closed-form fit of a variational last layer costs, before it runs.

A round of coordinate ascent over a dense covariance forms C matrices Σ_n w_nc φ_n φ_nᵀ, factorises
them and solves for N rows; every family spends the products of N rows with C weights besides:

    dense, low_rank  C r (2 N r + r²/3)  multiplications, r = min(N, d)
    full             the same of one matrix with C r rows
    eigenbasis       r (N r + 10 r²) once, for the basis
    all              C N d, `MEAN_STEPS` times in the search for the means, and C N tilts

These are leading terms of the present code, in one place so that they can be retuned with it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

from bayeslora.posteriors.config import AUTO, VBLL
from bayeslora.posteriors.cost import ROUNDS, FitCost
from bayeslora.posteriors.covariances import shapes

logger = logging.getLogger(__name__)

# A covariance is held a few times over while it is fitted.
_MOST_BYTES = 1 << 30
_SIMPLER = {"full": "dense", "dense": "eigenbasis", "low_rank": "eigenbasis"}
_SIMPLER_IN_TRAINING = {"full": "dense", "dense": "diagonal", "low_rank": "diagonal"}

MEAN_STEPS = 120
"""Products of rows and weights in the search for the means, in a round."""

TILT = 4e4
"""A tilt of the bound in a round, in multiplications of a product of matrices: Newton's method over
special functions. Measured 3e4 to 4e4; it counts where classes are many and features few."""


def fit_cost(config: VBLL, num_classes: int, num_features: int, num_rows: int) -> FitCost:
    """Return the cost of a fit with the covariance of `config`, dense for `auto`.

    Args:
        config: Which covariance and, of `low_rank`, how many directions.
        num_classes: C.
        num_features: d.
        num_rows: N.
    """
    family = with_family(config, "dense").covariance
    kept = shapes(family, num_classes, num_features, min(config.rank, num_features))
    work = float(num_classes * num_rows * (MEAN_STEPS * num_features + TILT))
    size = min(num_rows, num_features)
    if family == "eigenbasis":
        work += size * (num_rows * size + 10.0 * size * size) / ROUNDS
    elif family != "diagonal":
        matrices = 1 if family == "full" else num_classes
        size *= num_classes // matrices
        work += matrices * size * (2.0 * num_rows * size + size * size / 3)
    return FitCost(work, sum(map(math.prod, kept.values())))


def vbll_variants(
    config: VBLL, num_classes: int, num_features: int, num_rows: int
) -> list[tuple[VBLL, FitCost]]:
    """Return the options with each covariance that they leave open."""
    families = ("dense", "eigenbasis") if config.covariance == AUTO else (config.covariance,)
    found = [with_family(config, family) for family in families]
    return [(one, fit_cost(one, num_classes, num_features, num_rows)) for one in found]


def with_family(config: VBLL, family: str) -> VBLL:
    """Return the options with a family of covariances in the place of `auto`."""
    return replace(config, covariance=family) if config.covariance == AUTO else config


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
