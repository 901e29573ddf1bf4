"""Temperature scaling: one number that makes a classifier's probabilities softer or sharper.

    p'_c ∝ p_c^{1/T},   T > 0 minimises the NLL of held-out rows

The NLL is convex in β = 1/T, so T is found by Newton's method within a bracket. Works on the
probabilities alone: their logarithms are the logits up to a shift of the row. For a posterior whose
predictions average over weights it therefore scales the averaged prediction.

Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from bayeslora.plain_text import counted
from bayeslora.recalibration.config import TemperatureOptions
from bayeslora.recalibration.recalibrator import (
    Recalibrator,
    log_probs,
)

Array = NDArray[np.float64]

logger = logging.getLogger(__name__)

# β = 1/T stays between these.
SMALLEST, LARGEST = 1e-3, 1e3

_TOLERANCE = 1e-10

# Zero probabilities are read as the smallest normal number.
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(eq=False)
class Temperature(TemperatureOptions, Recalibrator):
    """A recalibrator with one parameter; it never changes which class is the most probable.

    Attributes:
        temperature: T, the number that logits are divided by: above 1 softens. None before `fit`.
    """

    title = "temperature scaling"
    by_class = False
    takes_gaps = True

    temperature: float | None = None

    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels."""
        self.temperature = 1 / best_inverse(_logits(probs), labels)

    def mapped(self, probs: Array) -> Array:
        """Return the probabilities with their logarithms over T."""
        return np.asarray(softmax(_logits(probs) / float(self.temperature or 1.0), axis=1))

    def num_parameters(self, num_classes: int) -> int:
        """Return 1."""
        return 1

    def report(self) -> dict[str, float | str]:
        """Return the temperature."""
        return {"temperature": float(self.temperature or 1.0)}


def _logits(probs: Array) -> Array:
    """Return the logarithms, minus infinity where a row does not have the class."""
    gaps = np.isnan(probs)
    logs = log_probs(np.where(gaps, 0.0, probs), _TINY)
    return np.where(gaps, -np.inf, logs)


def best_inverse(logits: Array, labels: NDArray[np.int64]) -> float:
    """Return β = 1/T that minimises mean_n [lse(β z_n) − β z_{n,y}]; say where it is an edge.

    Of rows that are all right there is none: the larger, the better. To claim certainty from them
    would be wrong, so β is 1, and that is said.
    """
    if (logits.argmax(1) == labels).all():
        logger.warning(
            "no mistake in the %s that the temperature is fitted to, so it stays 1; fit it to more "
            "rows, with mistakes among them",
            counted(len(labels), "row"),
        )
        return 1.0
    inverse = _newton(logits, labels)
    if inverse in {SMALLEST, LARGEST}:
        logger.warning("the best temperature, %g, is at the edge of the search", 1 / inverse)
    return inverse


def _newton(logits: Array, labels: NDArray[np.int64]) -> float:
    """Search between the edges, by Newton's method within a bracket."""
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
    probs = softmax(inverse * logits, axis=1)
    logits = np.where(np.isfinite(logits), logits, 0.0)  # where the probability is 0
    average = (probs * logits).sum(1)
    at_label = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    spread = (probs * (logits - average[:, None]) ** 2).sum(1)
    return float((average - at_label).mean()), float(spread.mean())
