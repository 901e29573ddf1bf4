"""How many labelled rows a promise, an accuracy or a comparison needs.

Held-out rows stand for all rows there could be: sets of n rows are drawn from them with
replacement. The half-width of the accuracy is that of Wilson's interval. A comparison of two
methods on the same n rows, by the sign of the rows on which one is right, sees a difference of

    (z_.975 + z_.8) √(d / n)

with 80 % power at the level of .05, d being the share of these rows (Miettinen 1968, Biometrics
24(2), for large n); with independent errors of two methods of accuracy a it is 2 a (1 − a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayeslora.decisions.threshold import fit_rule, labelled
from bayeslora.predictions.record import Predictions

SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_DRAWS = 100


@dataclass(frozen=True)
class Budget:
    """What n labelled rows are worth.

    Attributes:
        rows: n.
        accuracy: Half the width of the 95 % interval of the accuracy.
        found: Share of sets of n rows in which a threshold keeps the risk.
        automated: Mean share of rows that are automated, 0 where there is no threshold.
        difference: Difference of accuracy between two methods that a comparison sees in 80 % of
            sets, at most.
    """

    rows: int
    accuracy: float
    found: float
    automated: float
    difference: float


def budget(
    predictions: Predictions,
    risk: float,
    *,
    confidence: float = 0.95,
    sizes: Sequence[int] = SIZES,
    seed: int = 0,
) -> list[Budget]:
    """Return what numbers of labelled rows are worth.

    Args:
        predictions: Labelled rows like those to come.
        risk: Largest share of errors among automated rows.
        confidence: Probability that the promise holds.
        sizes: Numbers of rows.
        seed: Seed of the draws.

    Raises:
        InputError: A value is not allowed, or no row has a label.
    """
    from scipy.stats import norm

    from bayeslora.metrics.intervals import wilson

    fit_rule(predictions, risk, confidence=confidence)
    rows = labelled(predictions).replace(ids=None)
    accuracy = float((rows.prediction == rows.labels).mean())
    discordant = 2 * accuracy * (1 - accuracy)
    factor = float(norm.ppf(0.975) + norm.ppf(0.8))
    generator = np.random.default_rng(seed)
    budgets = []
    for size in sizes:
        draws = (rows.take(generator.integers(0, len(rows), size)) for _ in range(_DRAWS))
        made = [fit_rule(each, risk, confidence=confidence).promises[""] for each in draws]
        low, high = wilson(accuracy * size, size)
        shares = [each.share for each in made if each.threshold is not None]
        budgets.append(
            Budget(
                size,
                float(high - low) / 2,
                len(shares) / _DRAWS,
                sum(shares) / _DRAWS,
                factor * float(np.sqrt(discordant / size)),
            )
        )
    return budgets
