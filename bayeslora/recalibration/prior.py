"""New shares of classes: labels have shifted, but texts of a class look as before.

    p'(c | x) ∝ p(c | x) w_c,   w_c = π'_c / π_c

π are the shares of the classes among the fit rows, π' those among the rows to apply to: known ones,
or the maximum of their likelihood Σ_n log Σ_c w_c p_nc, which is concave in π' and needs no labels.
Expectation maximisation finds it; π' is the mean of p' there. The probabilities must be calibrated,
or the shares come out wrong: recalibrate them before.

Source: Saerens, Latinne and Decaestecker 2002, Neural Computation 14(1), equations 2.4 and 2.9;
Alexandari, Kundaje and Shrikumar 2020, arXiv 1901.06852, for the need of calibration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.option_checks import Share
from bayeslora.recalibration.recalibrate import Array, Recalibrator, base_rates

_MOST_STEPS = 10_000
_TOLERANCE = 1e-10


@dataclass(eq=False)
class PriorShift(Recalibrator):
    """A recalibrator for rows among which the classes have other shares.

    It learns the old shares from the fit rows, and the new ones from the rows it is applied to,
    which therefore must be many, and be applied to together.

    Attributes:
        before: [C] float64, π; None before `fit`.
    """

    shares: Annotated[tuple[Share, ...], MinLen(2)] | None = None
    """Shares of the classes among the rows to apply to, in the order of the classes; estimated if
    None."""

    name: ClassVar[str] = "prior"
    summary: ClassVar[str] = "new shares of the classes, known or estimated without labels"
    source: ClassVar[str] = "Saerens, Latinne and Decaestecker 2002, Neural Computation 14(1)"

    title = "prior shift"

    before: Array | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels.

        Raises:
            InputError: `shares` are no C shares that sum to 1.
        """
        shares = self.shares
        if shares and (len(shares) != probs.shape[1] or abs(sum(shares) - 1) > 1e-6):
            raise InputError(
                f"shares must be {probs.shape[1]} numbers that sum to 1, got {shares}",
                options=("shares",),
            )
        self.before = base_rates(labels, probs.shape[1])

    def mapped(self, probs: Array) -> Array:
        """Return the probabilities under the new shares, [N, C]."""
        before = np.asarray(self.before)
        after = np.asarray(self.shares) if self.shares else new_shares(probs, before)
        return _weighted(probs, after / before)

    def num_parameters(self, num_classes: int) -> int:
        """Return C − 1."""
        return num_classes - 1

    def report(self) -> dict[str, float | str]:
        """Return the largest and the smallest share among the fit rows."""
        before = np.asarray(self.before)
        return {"largest_share": float(before.max()), "smallest_share": float(before.min())}


def new_shares(probs: Array, before: Array) -> Array:
    """Return the shares of most likelihood, [C], for [N, C] probabilities under `before`, [C]."""
    after = before
    for _ in range(_MOST_STEPS):
        following = np.asarray(_weighted(probs, after / before).mean(0))
        if np.abs(following - after).max() < _TOLERANCE:
            return following
        after = following
    return after


def _weighted(probs: Array, weights: Array) -> Array:
    weighted = probs * weights
    sums = weighted.sum(1, keepdims=True)
    # A row whose classes all have the new share 0 keeps its probabilities.
    return np.where(sums > 0, weighted / np.where(sums > 0, sums, 1.0), probs)
