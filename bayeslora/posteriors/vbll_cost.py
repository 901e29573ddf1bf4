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

import math
import time
from dataclasses import dataclass, replace
from typing import Any

from bayeslora.posteriors.config import AUTO, VBLL
from bayeslora.posteriors.covariances import shapes

ROUNDS = 25
"""Rounds of a fit: measured 6 to 31 with empirical Bayes, at 2 to 100 classes."""

EFFICIENCY = 0.6
"""Share of the rate of one product of matrices that a fit reaches: triangular solves are slower.
With most rounds of a dense covariance in the eigenbasis and in float32, a fit takes .4 of what is
estimated at 2 to 20 classes, and .9 at 77."""

MEAN_STEPS = 120
"""Products of rows and weights in the search for the means, in a round."""

TILT = 4e4
"""A tilt of the bound in a round, in multiplications of a product of matrices: Newton's method over
special functions. Measured 3e4 to 4e4; it counts where classes are many and features few."""

DENSE_LIMIT = 5e10
"""Multiplications of a round up to which `auto` takes a dense covariance: at most three minutes a
fit on one core. 20 classes of 1,000 rows with 384 features take 8e9, 400 classes of 2,000 rows
3e11."""


@dataclass(frozen=True)
class FitCost:
    """Cost of a final fit.

    Attributes:
        multiplications: Of a round.
        numbers: Stored float32 numbers of the covariance.
    """

    multiplications: float
    numbers: int

    @property
    def megabytes(self) -> float:
        """Size of the covariance."""
        return 4 * self.numbers / 1e6

    def seconds(self, rate: float) -> float:
        """Return the time of a fit where a product of matrices has this rate a second."""
        return ROUNDS * self.multiplications / (EFFICIENCY * rate)


FREE = FitCost(0.0, 0)
"""Of fits that take seconds at most."""


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


def variants(
    config: Any, num_classes: int, num_features: int, num_rows: int
) -> list[tuple[Any, FitCost]]:
    """Return what the options may stand for here with the cost of each, the dearest first.

    A posterior whose fit takes long has a method `variants` of its own.

    Args:
        config: Options of a posterior.
        num_classes: C.
        num_features: d.
        num_rows: N.
    """
    own = getattr(config, "variants", None)
    return [(config, FREE)] if own is None else own(num_classes, num_features, num_rows)


def vbll_variants(
    config: VBLL, num_classes: int, num_features: int, num_rows: int
) -> list[tuple[VBLL, FitCost]]:
    """Return the options with each covariance that they leave open; see `variants`."""
    families = ("dense", "eigenbasis") if config.covariance == AUTO else (config.covariance,)
    found = [with_family(config, family) for family in families]
    return [(one, fit_cost(one, num_classes, num_features, num_rows)) for one in found]


def settled(config: Any, num_classes: int, num_features: int, num_rows: int) -> Any:
    """Return the options with the covariance that `auto` stands for here.

    The rule counts multiplications and no seconds, so that every machine takes the same family.
    """
    known = variants(config, num_classes, num_features, num_rows)
    fitting = [one for one, cost in known if cost.multiplications <= DENSE_LIMIT]
    return fitting[0] if fitting else known[-1][0]


def with_family(config: VBLL, family: str) -> VBLL:
    """Return the options with a family of covariances in the place of `auto`."""
    return replace(config, covariance=family) if config.covariance == AUTO else config


def multiplication_rate(size: int = 384) -> float:
    """Return the float64 multiplications a second of this machine, from one product of matrices.

    It takes some hundredths of a second; use it for what is shown, never for what is decided.
    """
    import torch

    matrix = torch.ones(size, size, dtype=torch.float64)
    times = []
    for _ in range(3):
        before = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - before)
    return size**3 / max(min(times), 1e-9)
