"""Small classification problems on features, for the tests of posteriors."""

import torch


def toy(rows=60, size=4, classes=3, seed=0, separation=1.0):
    """Return features [N, d] float64 with mean ‖φ‖² = 1, and labels [N] that hold every class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = separation * torch.randn(classes, size, generator=generator, dtype=torch.float64)
    features = centres[labels] + torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return features / features.square().sum(1).mean().sqrt(), labels
