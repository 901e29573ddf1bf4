"""One scale factor for all logits, fitted to held-out rows.

The inverse of a temperature (Guo et al. 2017, arXiv 1706.04599, section 4.2). A prior keeps it near
1 for few rows, and finite if all of them are classified correctly. If a last layer can scale its
means alone, the deviations stay fixed: scaling both keeps their ratio, so logits that vary more
than they differ would stay unsure under any factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bayeslora.links import link_probabilities
from bayeslora.logits import AnyLogits

# Prior standard deviation of the factor's logarithm: about a factor of two.
_PRIOR_STD = 0.7
_LARGEST_FACTOR = 8.0
# Draws for the probabilities of Gaussian logits, the same for every factor.
_DRAWS = 200


def best_scale(
    batches: Sequence[tuple[AnyLogits, Tensor]], *, means_alone: bool = False, **options: Any
) -> tuple[float, float, float]:
    """Return the factor of maximal posterior density, and the mean NLL without and with it.

    The prior on its logarithm is a Gaussian around 0 with standard deviation 0.7; the factor is
    between 1/8 and 8.

    Args:
        batches: Pairs of logits of N rows and C classes and labels [N] int64.
        means_alone: Whether to scale the means only, not the deviations from them.
        **options: `link` and `num_samples` of the posterior's predictions.
    """
    from scipy.optimize import minimize_scalar

    link_options = options | {"num_samples": min(options.get("num_samples", _DRAWS), _DRAWS)}
    rows = sum(len(labels) for _, labels in batches)

    def nll(factor: float) -> float:
        total = 0.0
        for logits, labels in batches:
            rescale = logits.sharpened if means_alone else logits.scaled
            probs = link_probabilities(rescale(factor), **link_options).probs.cpu()
            label_probs = probs[torch.arange(len(labels)), labels.cpu()]
            total -= float(label_probs.clamp_min(torch.finfo(probs.dtype).tiny).log().sum())
        return total

    def loss(log_factor: float) -> float:
        return nll(math.exp(log_factor)) + 0.5 * (log_factor / _PRIOR_STD) ** 2

    bound = math.log(_LARGEST_FACTOR)
    result = minimize_scalar(
        loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-3}
    )
    factor = math.exp(float(result.x))
    return factor, nll(1.0) / rows, nll(factor) / rows
