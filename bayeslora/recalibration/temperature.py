"""Temperature scaling: one parameter that makes probabilities softer or sharper.

    p'_c ∝ p_c^{1/T},   T > 0 minimises the NLL of held-out rows

The NLL is convex in β = 1/T and is minimised by Newton's method within a bracket. Only the
probabilities are needed: their logarithms are the logits up to a constant per row. For a posterior
whose predictions average over weights it therefore scales the averaged prediction.

Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bayeslora.plain_text import counted
from bayeslora.recalibration.recalibrate import Array, Recalibrator, log_probs

logger = logging.getLogger(__name__)

# Bounds of β = 1/T.
SMALLEST, LARGEST = 1e-3, 1e3

_TOLERANCE = 1e-10

# Zero probabilities count as the smallest normal number.
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(eq=False)
class Temperature(Recalibrator):
    """A recalibrator with one parameter; it never changes which class is the most probable.

    Attributes:
        temperature: T, the number that logits are divided by: above 1 softens. None before `fit`.
    """

    name: ClassVar[str] = "temperature"
    summary: ClassVar[str] = "one temperature for all logits; keeps the ranking"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"

    title = "temperature scaling"
    by_class = False
    takes_gaps = True

    temperature: float | None = field(default=None, init=False)

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        self.temperature = 1 / best_inverse(_logits(probs), labels)

    def mapped(self, probs: Array) -> Array:
        """Return the probabilities with their logarithms over T."""
        from scipy.special import softmax

        return np.asarray(softmax(_logits(probs) / float(self.temperature or 1.0), axis=1))

    def num_parameters(self, num_classes: int) -> int:
        """Return 1."""
        return 1

    def report(self) -> dict[str, float | str]:
        """Return the temperature."""
        return {"temperature": float(self.temperature or 1.0)}


def _logits(probs: Array) -> Array:
    """Return the logarithms, minus infinity for classes that a row lacks."""
    gaps = np.isnan(probs)
    logs = log_probs(np.where(gaps, 0.0, probs), _TINY)
    return np.where(gaps, -np.inf, logs)


def best_inverse(logits: Array, labels: NDArray[np.int64]) -> float:
    """Return the β = 1/T that minimises mean_n [lse(β z_n) − β z_{n,y}]; warn at the bounds.

    If all rows are right, no minimum exists: the larger β, the lower the loss. This is no reason
    for certainty, so β is 1, with a warning.
    """
    if (logits.argmax(1) == labels).all():
        logger.warning(
            "no mistakes among the %s used to fit the temperature, so it stays 1; fit it to more "
            "rows, with mistakes among them",
            counted(len(labels), "row"),
        )
        return 1.0
    inverse = _newton(logits, labels)
    if inverse in {SMALLEST, LARGEST}:
        logger.warning("the best temperature, %g, is at the edge of the search", 1 / inverse)
    return inverse


def _newton(logits: Array, labels: NDArray[np.int64]) -> float:
    """Search between the bounds by Newton's method within a bracket."""
    low, high = SMALLEST, LARGEST
    if _derivatives(logits, labels, low)[0] >= 0:
        return low
    if _derivatives(logits, labels, high)[0] <= 0:
        return high
    inverse = 1.0
    for _ in range(200):
        slope, bend = _derivatives(logits, labels, inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        newton = inverse - slope / bend if bend > 0 else low
        # The geometric mean halves the bracket on the scale of log T.
        following = newton if low < newton < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= _TOLERANCE * inverse:
            return following
        inverse = following
    return inverse


def _derivatives(logits: Array, labels: NDArray[np.int64], inverse: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean NLL with respect to β."""
    from scipy.special import softmax

    probs = softmax(inverse * logits, axis=1)
    logits = np.where(np.isfinite(logits), logits, 0.0)  # where the probability is 0
    average = (probs * logits).sum(1)
    at_label = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    variance = (probs * (logits - average[:, None]) ** 2).sum(1)
    return float((average - at_label).mean()), float(variance.mean())
