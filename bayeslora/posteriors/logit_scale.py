"""One factor for all logits, by rows that they were not fitted to.

The inverse of a temperature (Guo et al. 2017, arXiv 1706.04599, section 4.2). A prior keeps it near
1 where rows are few, and finite where all of them are right. Where a last layer can multiply its
means alone, deviations stay as they are: a factor of both leaves their ratio, and logits that vary
more than they differ would stay unsure under any factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bayeslora.links import link_probabilities
from bayeslora.logits import AnyLogits

# Standard deviation of the factor's logarithm before any row is seen: a factor of two, about.
_PRIOR_SPREAD = 0.7
_LARGEST_FACTOR = 8.0
# Draws of a Gaussian's probabilities, the same for every factor.
_DRAWS = 200


def best_scale(
    answers: Sequence[tuple[AnyLogits, Tensor]], *, means_alone: bool = False, **drawing: Any
) -> tuple[float, float, float]:
    """Return the factor of maximal posterior density, and the mean NLL without and with it.

    The prior on its logarithm is a Gaussian around 0 with standard deviation 0.7; the factor is
    between 1/8 and 8.

    Args:
        answers: Logits of N rows and C classes, with the labels [N] int64, in any number of pieces.
        means_alone: Whether deviations from the means stay as they are.
        **drawing: `link` and `num_samples` of the posterior's predictions.
    """
    from scipy.optimize import minimize_scalar

    drawn = drawing | {"num_samples": min(drawing.get("num_samples", _DRAWS), _DRAWS)}
    rows = sum(len(labels) for _, labels in answers)

    def nll(factor: float) -> float:
        total = 0.0
        for logits, labels in answers:
            times = logits.sharpened if means_alone else logits.scaled
            probs = link_probabilities(times(factor), **drawn).probs.cpu()
            right = probs[torch.arange(len(labels)), labels.cpu()]
            total -= float(right.clamp_min(torch.finfo(probs.dtype).tiny).log().sum())
        return total

    def loss(log_factor: float) -> float:
        return nll(math.exp(log_factor)) + 0.5 * (log_factor / _PRIOR_SPREAD) ** 2

    edge = math.log(_LARGEST_FACTOR)
    found = minimize_scalar(loss, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-3})
    factor = math.exp(float(found.x))
    return factor, nll(1.0) / rows, nll(factor) / rows
