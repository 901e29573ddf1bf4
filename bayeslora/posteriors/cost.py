"""Estimated cost of final fits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

ROUNDS = 25
"""Rounds of a closed-form fit: measured 6 to 31 with empirical Bayes, at 2 to 100 classes."""

EFFICIENCY = 0.6
"""Fraction of the rate of one matrix product that a fit reaches: triangular solves are slower.
With most rounds of a dense covariance in the eigenbasis and in float32, a fit takes .4 of the
estimate at 2 to 20 classes, and .9 at 77."""

LARGEST_ROUND = 5e10
"""Largest number of multiplications per round of an affordable variant: at most three minutes per
fit on one core. 20 classes of 1,000 rows with 384 features take 8e9, 400 of 2,000 rows 3e11."""

LARGEST_MEGABYTES = 100.0
"""Largest stored size of an affordable variant: dense covariances of 77 classes with 576 features
take 51."""


@dataclass(frozen=True)
class FitCost:
    """Cost of a final fit.

    Attributes:
        multiplications: Multiplications per round.
        numbers: Stored float32 numbers of the covariance.
    """

    multiplications: float
    numbers: int

    @property
    def megabytes(self) -> float:
        """Size of the covariance."""
        return 4 * self.numbers / 1e6

    def seconds(self, rate: float) -> float:
        """Return the time of a fit if matrix products run at `rate` multiplications a second."""
        return ROUNDS * self.multiplications / (EFFICIENCY * rate)


FREE = FitCost(0.0, 0)
"""Cost of fits that take seconds at most."""


def affordable(config: Any, num_classes: int, num_features: int, num_rows: int) -> Any:
    """Return the most expensive of the `variants` of a posterior's options within two budgets.

    The budgets `LARGEST_ROUND` and `LARGEST_MEGABYTES` count multiplications and bytes, not
    seconds, so every machine chooses the same variant.

    Args:
        config: Options of a posterior.
        num_classes: C.
        num_features: d.
        num_rows: N.
    """
    variants = config.variants(num_classes, num_features, num_rows)
    within_budget = [
        variant
        for variant, cost in variants
        if cost.multiplications <= LARGEST_ROUND and cost.megabytes <= LARGEST_MEGABYTES
    ]
    return within_budget[0] if within_budget else variants[-1][0]


def multiplication_rate(size: int = 384) -> float:
    """Measure the float64 multiplications a second of this machine in a matrix product.

    It takes some hundredths of a second. Use the result for display only, never for decisions.
    """
    import torch

    matrix = torch.ones(size, size, dtype=torch.float64)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return size**3 / max(min(times), 1e-9)
