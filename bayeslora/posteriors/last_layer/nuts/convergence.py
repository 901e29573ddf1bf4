"""Whether Markov chains agree with each other, and how many independent draws they amount to.

Both numbers are those of Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, arXiv 1903.08008:
draws are replaced by the normal scores of their ranks over all chains, each chain is split in two,
and the split R-hat and the effective sample size (Geyer's initial monotone sequence) are taken of
the scores. R-hat is the larger of that of the draws and that of their distances from the median,
which sees chains of unequal spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayeslora.errors import InputError

RHAT_LIMIT = 1.01
"""R-hat above this is worth a warning (Vehtari et al. 2021, section 4)."""

# Pyro's effective sample size holds (draws of a half chain)² / 4 numbers a quantity.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Convergence:
    """The worst of several quantities.

    Attributes:
        max_rhat: Largest R-hat; 1 where chains cannot be told apart.
        min_ess: Smallest bulk effective sample size, over all chains.
    """

    max_rhat: float
    min_ess: float


def convergence(draws: Tensor) -> Convergence:
    """Return R-hat and effective sample size of the worst quantity.

    Args:
        draws: [chains, draws, quantities], at least four draws a chain.

    Raises:
        InputError: A quantity is the same in every draw of a half chain, as where every step is
            rejected.
    """
    halves = split_chains(draws)
    size = max(1, 4 * _CHUNK // halves.shape[1] ** 2)
    found = [_convergence(part) for part in torch.split(halves, size, dim=2)]
    if not all(math.isfinite(one.max_rhat) and math.isfinite(one.min_ess) for one in found):
        raise InputError(
            "the chains did not move, so they say nothing about the posterior; "
            "raise num_warmup or num_samples, or lower target_accept"
        )
    return Convergence(max(one.max_rhat for one in found), min(one.min_ess for one in found))


def _convergence(halves: Tensor) -> Convergence:
    import pyro.ops.stats

    stats: Any = pyro.ops.stats  # Pyro's own annotations are partial
    scores = normal_scores(halves)
    median = halves.flatten(0, 1).median(0).values
    folded = normal_scores((halves - median).abs())
    rhat = torch.maximum(*(stats.gelman_rubin(item) for item in (scores, folded)))
    total = scores.shape[0] * scores.shape[1]
    # Chains that swing from side to side may estimate a negative correlation time; Stan's limit.
    times = (total / stats.effective_sample_size(scores)).clamp_min(1 / math.log10(total))
    return Convergence(float(rhat.max()), float(total / times.max()))


def split_chains(draws: Tensor) -> Tensor:
    """Return [2 · chains, draws // 2, quantities]: first and second halves, the middle left out."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, draws.shape[1] - half :]])


def normal_scores(draws: Tensor) -> Tensor:
    """Return Φ⁻¹((rank − 3/8) / (n + 1/4)) of each of n draws, ranks over all chains, ties shared.

    Args:
        draws: [chains, draws, quantities].
    """
    values = draws.flatten(0, 1).T.contiguous()
    ordered = values.sort(-1).values
    first, last = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    rank = (first + last + 1).double() / 2
    scores: Tensor = torch.special.ndtri((rank - 0.375) / (values.shape[-1] + 0.25))
    return scores.T.reshape(draws.shape)
