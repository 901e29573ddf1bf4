"""The score by which posteriors tune themselves."""

from __future__ import annotations

import torch
from torch import Tensor


def nll(probs: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of [N, C] float64 probabilities, in nats per row."""
    picked = probs.gather(1, labels[:, None])[:, 0]
    return float(-picked.clamp_min(torch.finfo(probs.dtype).tiny).log().mean())
