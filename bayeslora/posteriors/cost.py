"""What final fits cost, before they run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

ROUNDS = 25
"""Rounds of a closed-form fit: measured 6 to 31 with empirical Bayes, at 2 to 100 classes."""

EFFICIENCY = 0.6
"""Share of the rate of one product of matrices that a fit reaches: triangular solves are slower.
With most rounds of a dense covariance in the eigenbasis and in float32, a fit takes .4 of what is
estimated at 2 to 20 classes, and .9 at 77."""

LARGEST_ROUND = 5e10
"""Multiplications of a round up to which a dearer variant is taken: at most three minutes a fit on
one core. 20 classes of 1,000 rows with 384 features take 8e9, 400 classes of 2,000 rows 3e11."""

LARGEST_MEGABYTES = 100.0
"""Stored size up to which a larger variant is taken: dense covariances of 77 classes with 576
features take 51."""


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


def affordable(config: Any, num_classes: int, num_features: int, num_rows: int) -> Any:
    """Return the most expensive of the `variants` of a posterior's options within two budgets.

    They are `LARGEST_ROUND` and `LARGEST_MEGABYTES`: multiplications and bytes, not seconds, so
    that every machine takes the same one.

    Args:
        config: Options of a posterior.
        num_classes: C.
        num_features: d.
        num_rows: N.
    """
    known = config.variants(num_classes, num_features, num_rows)
    fitting = [
        one
        for one, cost in known
        if cost.multiplications <= LARGEST_ROUND and cost.megabytes <= LARGEST_MEGABYTES
    ]
    return fitting[0] if fitting else known[-1][0]


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
