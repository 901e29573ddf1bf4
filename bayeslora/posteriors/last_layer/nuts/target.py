"""The posterior of softmax regression, in coordinates in which it is nearly a standard normal.

    U(A) = Σ_n [ lse(z_n) − z_{n,y_n} ] + δ/2 ‖A‖²,   z_n = o_n + U A φ_n,   A [C−1, r]

with A measured from the prior mean, whose logits o_n do not change.

The likelihood is blind to a shift common to all classes and to weights outside the row space of
the training features, so only the contrasts U [C, C−1] between classes are sampled, in coordinates
of the row space. Near its mode the Hessian is about B ⊗ ΦᵀΦ + δI with B the mean over rows of
Uᵀ(diag p − ppᵀ)U. Turning both sides into their eigenvectors and dividing by the square root of
the eigenvalues makes it about the identity, and costs a step nothing: the turn is done once, to the
features and to the contrasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bayeslora.posteriors.last_layer.algebra import class_contrasts
from bayeslora.posteriors.last_layer.means import MeanProblem, maximise_mean

_ITERATIONS = 500


class AnyTarget(Protocol):
    """A posterior over z, which stands for weights and is nearly a standard normal; float64."""

    @property
    def mode(self) -> Tensor:
        """Weights of the greatest density, in the shape of a z."""
        ...

    def potential(self, z: Tensor) -> Tensor:
        """Return the energy of z, in nats up to a constant."""
        ...

    def class_weights(self, z: Tensor) -> Tensor:
        """Return the [S, C, r] weights that S draws of z stand for, from the prior mean."""
        ...


@dataclass(frozen=True)
class Target:
    """A posterior over z [C−1, r], which stands for the weights mode + scale · z; float64.

    Attributes:
        features: [N, r] in the eigenvectors of ΦᵀΦ.
        contrasts: [C, C−1] in the eigenvectors of B.
        directions: [r, r], the eigenvectors of ΦᵀΦ.
        linear: [C−1, r], the gradient of Σ_n z_{n,y_n}.
        mode: [C−1, r], the MAP weights.
        scale: [C−1, r] approximate posterior deviations.
        precision: δ of the prior.
        offset: [N, C], logits of the prior mean; zero where that is.
    """

    features: Tensor
    contrasts: Tensor
    directions: Tensor
    linear: Tensor
    mode: Tensor
    scale: Tensor
    precision: float
    offset: Tensor

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
            start: [C, r] weights, measured from the prior mean, to look for the mode from.
            precision: δ.
            offset: [N, C] logits of the prior mean; None for zero.
        """
        curvature, directions = torch.linalg.eigh(features.T @ features)
        curvature = curvature.clamp_min(0)
        turned = features @ directions
        targets = one_hot(labels, len(start)).to(turned)
        offset = torch.zeros_like(targets) if offset is None else offset
        weights = maximise_mean(
            MeanProblem(turned, targets, offset[None], targets.new_ones(1), 1 / precision),
            start @ directions,
            # Half ΦᵀΦ bounds the curvature of any class (Böhning 1992).
            lambda gradient: gradient / (curvature / 2 + precision),
            max_iterations=_ITERATIONS,
            tolerance=1e-8,
        )
        contrasts = class_contrasts(len(start)).to(turned)
        probs = (offset + turned @ weights.T).softmax(-1)
        spread = torch.diag(probs.mean(0)) - probs.T @ probs / len(probs)
        between, turn = torch.linalg.eigh(contrasts.T @ spread @ contrasts)
        contrasts = contrasts @ turn
        product = between.clamp_min(0)[:, None] * curvature
        return cls(
            features=turned,
            contrasts=contrasts,
            directions=directions,
            linear=contrasts.T @ targets.T @ turned,
            mode=contrasts.T @ weights,
            scale=(product + precision).rsqrt(),
            precision=precision,
            offset=offset,
        )

    def potential(self, z: Tensor) -> Tensor:
        """Return the energy U of [..., C−1, r] coordinates, in nats up to a constant."""
        weights = self.mode + self.scale * z
        logits = self.offset + self.features @ weights.transpose(-1, -2) @ self.contrasts.T
        normaliser = logits.logsumexp(-1).sum(-1)
        quadratic = 0.5 * self.precision * weights.square() - self.linear * weights
        return normaliser + quadratic.sum((-2, -1))

    def class_weights(self, z: Tensor) -> Tensor:
        """Return the [S, C, r] weights of [S, C−1, r] draws; they sum to zero over classes."""
        turned = self.mode + self.scale * z
        return self.contrasts @ turned @ self.directions.T
