"""Distance of features to their k-th nearest training row, all features scaled to length 1.

Source: Sun, Ming, Zhu and Li 2022, arXiv 2204.06507, equation 3. They choose k on validation data;
here it is 10, small enough for hundreds of training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bayeslora.runtime import row_slices

NEIGHBOUR = 10
"""k; at most the number of stored rows."""

MAX_ROWS = 10_000
"""Largest number of stored training rows; more are subsampled with a seed."""


class NearestRows(nn.Module):
    """Distance to the k-th nearest training row.

    Attributes:
        rows: [M, d] float32, training features of length 1.
    """

    rows: Tensor

    def __init__(self, num_rows: int, num_features: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(num_rows, num_features))

    @classmethod
    def fitted(cls, features: Tensor, seed: int) -> NearestRows:
        """Store [N, d] training features, at most `MAX_ROWS` of them."""
        if len(features) > MAX_ROWS:
            generator = torch.Generator().manual_seed(seed)
            indices = torch.randperm(len(features), generator=generator)[:MAX_ROWS].sort().values
            features = features[indices.to(features.device)]
        nearest = cls(*features.shape).to(features.device)
        nearest.rows.copy_(normalize(features.double()))
        return nearest

    @classmethod
    def empty(cls, extra: Mapping[str, Any], num_features: int) -> NearestRows:
        """Return an empty score with the shape in `extra_config`, to load tensors into."""
        return cls(int(extra["rows"]), num_features)

    def forward(self, features: Tensor) -> Tensor:
        """Return the score [N], 0 to 2, of [N, d] float64 features."""
        rows, queries = normalize(self.rows.double()), normalize(features)
        k = min(NEIGHBOUR, len(rows))
        parts = [
            (queries[chunk] @ rows.T).topk(k, dim=1).values[:, -1]
            for chunk in row_slices(len(queries), len(rows))
        ]
        cosine = torch.cat(parts)
        return (2 - 2 * cosine).clamp_min(0).sqrt()

    def extra_config(self) -> dict[str, Any]:
        """Return the number of rows and k."""
        return {"rows": len(self.rows), "neighbour": min(NEIGHBOUR, len(self.rows))}
