"""The optimal covariance of all classes' weights together.

    S⁻¹ = I/σ0² + Σ_n W_n ⊗ φ_n φ_nᵀ,   W_n [C, C] from the bound

W_n couples the classes as softmax does: what raises one logit lowers the others. Bounds that see
only the variances of logits would drive this coupling to zero.
"""

from __future__ import annotations

from torch import Tensor

from bayeslora.posteriors.covariances import Covariance, Full, precision_to_lower
from bayeslora.posteriors.vbll_blocks import weighted_gram


class FullBlocks:
    """One [C d, C d] covariance, held as its Cholesky factor and that of its inverse."""

    def __init__(self, features: Tensor, weights: Tensor, prior_precision: float) -> None:
        """Factorise.

        Args:
            features: [N, d] float64.
            weights: [N, C, C].
            prior_precision: 1/σ0².
        """
        self.prior_precision = prior_precision
        self._covariance = best_full(features, weights, prior_precision)
        self.train_covariance = self.of_logits(features)
        diagonal = self._covariance.lower.diagonal()
        self.log_determinant = 2 * float(diagonal.log().sum())
        # tr(S S⁻¹) = C d splits into the prior's part and the rows' part.
        rows = float((weights * self.train_covariance).sum())
        self.trace = (len(diagonal) - rows) / prior_precision

    def of_logits(self, features: Tensor) -> Tensor:
        """Return (I ⊗ φ)ᵀ S (I ⊗ φ), [M, C, C]."""
        return self._covariance.of_logits(features)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return S g: Newton's step of all classes together."""
        lower = self._covariance.lower
        return (lower @ (lower.T @ gradient.reshape(-1, 1))).view_as(gradient)

    def stored(self) -> Covariance:
        """Return the lower triangle L with L Lᵀ = S."""
        return self._covariance


def best_full(features: Tensor, weights: Tensor, prior_precision: float) -> Full:
    """Return the covariance at the head of this file; the arguments are those of `FullBlocks`."""
    classes, size = weights.shape[-1], features.shape[1]
    gram = weighted_gram(features, weights.flatten(1)).view(classes, classes, size, size)
    precision = gram.transpose(1, 2).reshape(classes * size, classes * size)
    precision.diagonal().add_(prior_precision)
    return Full(precision_to_lower(precision), classes)
