"""Features in coordinates of their own row space.

N training rows say nothing about directions orthogonal to all of them: there the posterior is the
prior, exactly. With fewer rows than features, last-layer algebra therefore needs N dimensions, not
d, which is the same saving as the matrix inversion lemma without a second set of formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowSpace:
    """An orthonormal basis of the training rows.

    Attributes:
        basis: [d, r] with orthonormal columns, or None where r = d and no rotation is worthwhile.
    """

    basis: Tensor | None

    @classmethod
    def of(cls, features: Tensor) -> RowSpace:
        """Return the space that [N, d] features span; all of it where N >= d."""
        rows, size = features.shape
        return cls(torch.linalg.qr(features.T)[0] if rows < size else None)

    def coordinates(self, features: Tensor) -> Tensor:
        """Return [N, r] coordinates of [N, d] features (or of [C, d] weights)."""
        return features if self.basis is None else features @ self.basis

    def outside(self, features: Tensor) -> Tensor:
        """Return the squared norm, [N, 1], of the part of [N, d] features outside the space."""
        if self.basis is None:
            return features.new_zeros(len(features), 1)
        rest = features - self.coordinates(features) @ self.basis.T
        return rest.square().sum(-1, keepdim=True)

    def expand(self, coordinates: Tensor) -> Tensor:
        """Return the [C, d] vectors that have these [C, r] coordinates."""
        return coordinates if self.basis is None else coordinates @ self.basis.T
