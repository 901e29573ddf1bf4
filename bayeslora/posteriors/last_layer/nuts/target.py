"""The posterior of softmax regression, in coordinates in which it is nearly a standard normal.

    U(A) = Σ_n [ lse(z_n) − z_{n,y_n} ] + δ/2 ‖A‖²,   z_n = o_n + U A φ_n,   A [C−1, r]

with A relative to the prior mean, whose logits o_n are constant.

The likelihood does not depend on a shift common to all classes or on weights outside the row space
of the training features, so only the contrasts U [C, C−1] between classes are sampled, in
coordinates of the row space. Near its mode the Hessian is about B ⊗ ΦᵀΦ + δI with B the mean over
rows of Uᵀ(diag p − ppᵀ)U. Rotating both factors to their eigenvectors and dividing by the square
root of the eigenvalues makes it about the identity, at no cost per step: features and contrasts are
rotated once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bayeslora.posteriors.last_layer.algebra import class_contrasts
from bayeslora.posteriors.last_layer.means import MeanProblem, maximise_mean

_ITERATIONS = 500


@dataclass(frozen=True, kw_only=True)
class AnyTarget:
    """A posterior over coordinates z of the weights, nearly a standard normal; float64.

    Attributes:
        mode: Weights of maximal density, in the shape of z.
        linear: The gradient of Σ_n z_{n,y_n}, in the shape of z.
        precision: δ of the prior.
        offset: [N, C], known logits plus those of the prior mean.
    """

    mode: Tensor
    linear: Tensor
    precision: float
    offset: Tensor

    def potential(self, z: Tensor) -> Tensor:
        """Return the energy at z, in nats up to a constant."""
        weights = self.weights(z)
        normaliser = (self.offset + self.logits(weights)).logsumexp(-1).sum(-1)
        quadratic = 0.5 * self.precision * weights.square() - self.linear * weights
        return normaliser + quadratic.sum((-2, -1))

    def weights(self, z: Tensor) -> Tensor:
        """Return the weights at z, in the shape of z."""
        raise NotImplementedError

    def logits(self, weights: Tensor) -> Tensor:
        """Return the logits [..., N, C] of weights in the shape of z, without the offset."""
        raise NotImplementedError

    def class_weights(self, z: Tensor) -> Tensor:
        """Return the [S, C, r] weights of S draws of z, relative to the prior mean."""
        return self.weights(z)


@dataclass(frozen=True, kw_only=True)
class Target(AnyTarget):
    """A posterior over z [C−1, r], with weights mode + scale · z; float64.

    Attributes:
        features: [N, r] in the eigenvectors of ΦᵀΦ.
        contrasts: [C, C−1] in the eigenvectors of B.
        directions: [r, r], the eigenvectors of ΦᵀΦ.
        scale: [C−1, r] approximate posterior standard deviations.
    """

    features: Tensor
    contrasts: Tensor
    directions: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls,
        features: Tensor,
        labels: Tensor,
        start: Tensor,
        precision: float,
        offset: Tensor | None = None,
    ) -> Target:
        """Find the mode and whiten around it.

        Args:
            features: [N, r] float64, in row-space coordinates.
            labels: [N] int64.
            start: [C, r] weights to start from, relative to the prior mean.
            precision: δ.
            offset: [N, C] logits of the prior mean; None for zero.
        """
        curvature, directions = torch.linalg.eigh(features.T @ features)
        curvature = curvature.clamp_min(0)
        rotated = features @ directions
        targets = one_hot(labels, len(start)).to(rotated)
        offset = torch.zeros_like(targets) if offset is None else offset
        weights = maximise_mean(
            MeanProblem(rotated, targets, offset[None], targets.new_ones(1), 1 / precision),
            start @ directions,
            # Half ΦᵀΦ bounds the curvature of any class (Böhning 1992).
            lambda gradient: gradient / (curvature / 2 + precision),
            max_iterations=_ITERATIONS,
            tolerance=1e-8,
        )
        contrasts = class_contrasts(len(start)).to(rotated)
        probs = (offset + rotated @ weights.T).softmax(-1)
        covariance = torch.diag(probs.mean(0)) - probs.T @ probs / len(probs)
        eigenvalues, rotation = torch.linalg.eigh(contrasts.T @ covariance @ contrasts)
        contrasts = contrasts @ rotation
        product = eigenvalues.clamp_min(0)[:, None] * curvature
        return cls(
            features=rotated,
            contrasts=contrasts,
            directions=directions,
            linear=contrasts.T @ targets.T @ rotated,
            mode=contrasts.T @ weights,
            scale=(product + precision).rsqrt(),
            precision=precision,
            offset=offset,
        )

    def weights(self, z: Tensor) -> Tensor:
        """Return the [..., C−1, r] weights at z."""
        return self.mode + self.scale * z

    def logits(self, weights: Tensor) -> Tensor:
        """Return the logits [..., N, C] of [..., C−1, r] weights."""
        return self.features @ weights.transpose(-1, -2) @ self.contrasts.T

    def class_weights(self, z: Tensor) -> Tensor:
        """Return the [S, C, r] weights of [S, C−1, r] draws; they sum to zero over classes."""
        return self.contrasts @ self.weights(z) @ self.directions.T
