"""The posterior of one weight vector shared by all options of a row, sampled by Markov chains.

    U(w) = Σ_n [ lse(z_n) − z_{n,y_n} ] + δ/2 ‖w‖²,   z_nc = o_nc + wᵀφ_nc

with w relative to the prior mean, whose logits are part of o. The Hessian at the mode, including
the prior, is factorised once; in whitened coordinates the posterior is nearly a standard normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bayeslora.posteriors.features import Features, mean_logits, weight_gradient
from bayeslora.posteriors.last_layer.algebra import RowSpace, bounding_factor, precision_factor
from bayeslora.posteriors.last_layer.means import MeanProblem, maximise_mean
from bayeslora.posteriors.last_layer.nuts.head import NUTSHead
from bayeslora.posteriors.last_layer.nuts.target import AnyTarget

_ITERATIONS = 500


@dataclass(frozen=True, kw_only=True)
class SharedTarget(AnyTarget):
    """A posterior over z [1, d], with weights mode + R⁻ᵀ z; float64.

    Attributes:
        features: [N, C, d].
        factor: [d, d], R with R Rᵀ the Hessian at the mode.
    """

    features: Tensor
    factor: Tensor

    @classmethod
    def of(
        cls, features: Tensor, labels: Tensor, start: Tensor, precision: float, offset: Tensor
    ) -> SharedTarget:
        """Find the mode and whiten around it.

        Args:
            features: [N, C, d] float64.
            labels: [N] int64.
            start: [1, d] weights to start from, relative to the prior mean.
            precision: δ.
            offset: [N, C].
        """
        targets = one_hot(labels, features.shape[1]).to(features)
        bound = bounding_factor(features.flatten(0, 1), precision)
        mode = maximise_mean(
            MeanProblem(features, targets, offset[None], targets.new_ones(1), 1 / precision),
            start,
            lambda gradient: torch.cholesky_solve(gradient.T, bound).T,
            max_iterations=_ITERATIONS,
            tolerance=1e-8,
        )
        probs = (offset + mean_logits(features, mode)).softmax(-1)
        mean = (probs[:, None] @ features)[:, 0]
        weighted = (probs[..., None] * features).flatten(0, 1)
        hessian = weighted.T @ features.flatten(0, 1) - mean.T @ mean
        hessian.diagonal().add_(precision)
        return cls(
            features=features,
            factor=precision_factor(hessian),
            mode=mode,
            linear=weight_gradient(features, targets),
            precision=precision,
            offset=offset,
        )

    def weights(self, z: Tensor) -> Tensor:
        """Return the [..., 1, d] weights at z."""
        unwhitened: Tensor = torch.linalg.solve_triangular(self.factor.T, z.mT, upper=True).mT
        return self.mode + unwhitened

    def logits(self, weights: Tensor) -> Tensor:
        """Return the logits [..., N, C] of [..., 1, d] weights."""
        return torch.einsum("ncd,...d->...nc", self.features, weights[..., 0, :])


class SharedNUTSHead(NUTSHead):
    """The Markov chain reference for options: features are [N, C, d]."""

    def _target(self, rows: Features) -> tuple[AnyTarget, RowSpace]:
        centre = self._prior_mean().cpu()
        start = self.point.weight.double().cpu() - centre
        target = SharedTarget.of(
            rows.values, rows.targets, start, self.point.prior_precision, rows.logits(centre)
        )
        return target, RowSpace(None)

    def _logits(self, rows: Features, draws: Tensor, noise: Tensor) -> Tensor:
        logits: Tensor = torch.einsum("ncd,sd->snc", rows.values, draws[:, 0])
        return logits + rows.logits(self._prior_mean())
