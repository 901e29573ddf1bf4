"""The one loop over draws of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.logits import SampledLogits
from bayeslora.option_checks import check_count
from bayeslora.posteriors.types import WeightPosterior

Item = TypeVar("Item")


@torch.no_grad()
def sample_logits(
    posterior: WeightPosterior,
    forward: Callable[[Item], Tensor],
    batches: Iterable[Item],
    num_samples: int,
    seed: int = 0,
) -> SampledLogits:
    """Return the logits of all batches under draws of the weights.

    A draw lasts for all batches, so every row sees the same networks.

    Args:
        posterior: What to draw from.
        forward: From a batch to its logits, [B, C].
        batches: Iterated once a draw, in the same order.
        num_samples: Draws S; 0 is one pass without any draw.
        seed: Of the draws.

    Returns:
        [S, N, C] float64 logits (S = 1 for `num_samples=0`).

    Raises:
        InputError: `num_samples` is negative, or there is no batch.
    """
    check_count("num_samples", num_samples, least=0)
    generator = torch.Generator().manual_seed(seed)
    kept = list(batches)
    if not kept:
        raise InputError("there are no rows to predict")

    def logits() -> Tensor:
        return torch.cat([forward(batch).double() for batch in kept])

    if num_samples == 0:
        return SampledLogits(logits()[None])
    draws = []
    for _ in range(num_samples):
        with posterior.draw(generator):
            draws.append(logits())
    return SampledLogits(torch.stack(draws))
