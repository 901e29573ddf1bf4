"""Toy classification problems on features."""

from __future__ import annotations

import torch
from torch import Tensor


def toy(
    rows: int = 60, size: int = 4, classes: int = 3, seed: int = 0, separation: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return features of Gaussian clusters, and labels that contain every class.

    Args:
        rows: Number of rows N.
        size: Number of features d.
        classes: Number of classes C.
        seed: Seed of centres and rows.
        separation: Standard deviation of the centres, relative to that within a cluster.

    Returns:
        Features [N, d] float64 with mean ‖φ‖² = 1, and labels [N] int64.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = separation * torch.randn(classes, size, generator=generator, dtype=torch.float64)
    features = centres[labels] + torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return features / features.square().sum(1).mean().sqrt(), labels
