"""Laplace approximation of a softmax last layer around its trained weights.

    q(Θ) = N(θ̂, (H + δI)⁻¹),   H = Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n,   J_n = I ⊗ φ_nᵀ

For a last layer H is the exact Hessian, and the logits are exactly linear in the weights. θ̂ is
trained as a MAP head; `fit` adds the curvature and chooses δ, but never moves θ̂. With
probabilities p_n [C], features φ_n [d] and prior precision δ, H and the covariance V of a row's
logits are

    full     H = Σ_n (diag p_n − p_n p_nᵀ) ⊗ φ_n φ_nᵀ,   V(φ) = (I ⊗ φᵀ) (H + δI)⁻¹ (I ⊗ φ)
    kron     H ≈ B ⊗ A, see `KronCurvature`

A prior scale τ, the deviation of a logit under the prior, is δ = mean ‖φ‖² / τ²; grids of δ are in
units of mean ‖φ‖². δ is a number, or has the lowest NLL on validation rows, or the highest
evidence, with M the prior mean of θ̂:

    log p(D | δ) ≈ log p(D | θ̂) − ½ δ ‖θ̂ − M‖² − ½ log|H + δI| + ½ C d log δ

The options of a row share one weight vector:

    H = Σ_n Φ_nᵀ (diag p_n − p_n p_nᵀ) Φ_n,   V(Φ) = Φ (H + δI)⁻¹ Φᵀ

H is then [d, d] for any number of options, and `kron` and `full` are the same.

Sources: MacKay 1992; Ritter, Botev and Barber 2018 (ICLR) for `kron`, without damping; Daxberger et
al. 2021, arXiv 2106.14806; for options McFadden 1974.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bayeslora.links import link_probabilities, nll
from bayeslora.logits import GaussianLogits
from bayeslora.option_checks import Draws, Link, Positive
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE, Posterior
from bayeslora.posteriors.last_layer.algebra import (
    RowSpace,
    best_on_grid,
    class_contrasts,
    log_marginal_likelihood,
    refine,
)
from bayeslora.posteriors.point import AroundPoint
from bayeslora.posteriors.types import Features, check_features, check_fit
from bayeslora.processes import row_slices

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Laplace(Posterior):
    """Laplace approximation of the last layer around its trained weights."""

    structure: Literal["full", "kron"] = "kron"
    """Structure of the covariance of all head weights: `full` or `kron`."""
    prior_precision: Positive | Literal["marglik", "validation"] = "validation"
    """Precision δ of the Gaussian prior on a weight. `validation` minimises the validation NLL, or
    means the precision of `prior_scale` if there are no validation rows; `marglik` maximises the
    marginal likelihood, which assumes that the mean weights are its optimum."""
    prior_scale: Positive = DEFAULT_PRIOR_SCALE
    """Prior standard deviation of a logit while the mean weights are trained."""
    link: Link = "mc"
    """Link from logits to probabilities, also used for tuning."""
    num_samples: Draws = 1000
    """Number of draws of the `mc` link."""

    name: ClassVar[str] = "laplace"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.laplace:LaplaceHead"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.laplace:SharedLaplaceHead"
    summary: ClassVar[str] = "Laplace approximation of the last layer, exact on cached features"
    use: ClassVar[str] = "Adding uncertainty to a finished, overconfident network."
    source: ClassVar[str] = "Daxberger et al. 2021, arXiv 2106.14806"
    passes: ClassVar[str] = "1"

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return True without an adapter: the weights are then the optimum for fixed features."""
        return not adapter_trains


def _allocate(curvature: nn.Module, **shapes: tuple[int, ...]) -> None:
    """Register float64 zeros of these shapes by name."""
    for name, shape in shapes.items():
        curvature.register_buffer(name, torch.zeros(shape, dtype=torch.float64))


class KronCurvature(nn.Module):
    """Eigenpairs of the two Kronecker factors, float64.

        A = (1/N) Σ_n φ_n φ_nᵀ  [d, d],   B = Σ_n (diag p_n − p_n p_nᵀ)  [C, C]

    so that B ⊗ A has the scale of a sum over rows. With A = Q_A diag(α) Q_Aᵀ, B = Q_B diag(β) Q_Bᵀ
    and u = (Q_Aᵀφ)², a prior of precision δ enters exactly:

        V(φ) = Q_B diag_j( Σ_i u_i / (α_i β_j + δ) ) Q_Bᵀ

    Directions outside `basis` have α = 0, and add ‖φ_out‖² / δ for the part of φ there.

    Attributes:
        basis: [d, r], eigenvectors that span (numerically) the range of A; r = min(N, d).
        feature_eigenvalues: [r], α ≥ 0.
        class_basis: [C, C], eigenvectors of B.
        class_eigenvalues: [C], β ≥ 0.
    """

    basis: Tensor
    feature_eigenvalues: Tensor
    class_basis: Tensor
    class_eigenvalues: Tensor

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        _allocate(self, basis=(num_features, rank), feature_eigenvalues=(rank,))
        _allocate(self, class_basis=(num_classes, num_classes), class_eigenvalues=(num_classes,))

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, d] features and [N, C] probabilities, both float64."""
        space = RowSpace.of(features)
        inside = space.coordinates(features)
        alpha, rotation = torch.linalg.eigh(inside.T @ inside / len(features))
        beta, class_basis = torch.linalg.eigh(probs.sum(0).diag() - probs.T @ probs)
        self.basis = space.expand(rotation.T).T.contiguous()
        self.feature_eigenvalues = alpha.clamp_min(0)
        self.class_basis = class_basis
        self.class_eigenvalues = beta.clamp_min(0)

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI| over all C d weights."""
        size, rank = self.basis.shape
        inside = self._eigenvalues(precision).log().sum()
        missing = torch.tensor(precision, dtype=torch.float64).log()
        return float(inside + len(self.class_eigenvalues) * (size - rank) * missing)

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' covariance [N, C, C] for [N, d] float64 features."""
        coordinates = features @ self.basis
        outside = (features - coordinates @ self.basis.T).square().sum(-1, keepdim=True)
        variances = coordinates.square() @ (1 / self._eigenvalues(precision)) + outside / precision
        return torch.einsum("aj,nj,bj->nab", self.class_basis, variances, self.class_basis)

    def _eigenvalues(self, precision: float) -> Tensor:
        """Return α_i β_j + δ, [r, C]."""
        return torch.outer(self.feature_eigenvalues, self.class_eigenvalues) + precision


class FullCurvature(nn.Module):
    """Eigenpairs of the Hessian between class contrasts in row-space coordinates, float64.

    Two kinds of directions have no curvature, so the posterior equals the prior there, and neither
    is stored:

    - a shift common to all classes, because (diag p − ppᵀ) 1 = 0. In an orthonormal basis U of the
      contrasts between classes, [C, C−1], H is a matrix of size (C−1) d.
    - features outside the row space of the training features.

    With ψ the coordinates of φ in the row space and H_U the Hessian between contrasts there,

        V(φ) = U [ (I ⊗ ψᵀ) (H_U + δI)⁻¹ (I ⊗ ψ) + ‖φ_out‖²/δ I ] Uᵀ + ‖φ‖²/(δ C) 1 1ᵀ

    The last term, the prior variance of the common shift, does not affect the softmax.

    Attributes:
        values: [P], eigenvalues of H_U, P = (C−1) r.
        vectors: [P, P], its eigenvectors, contrasts outermost.
        basis: [d, r] of the row space; None if r = d.
    """

    values: Tensor
    vectors: Tensor
    basis: Tensor | None

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        size = (num_classes - 1) * rank
        self.num_features = num_features
        self.num_classes = num_classes
        _allocate(self, values=(size,), vectors=(size, size))
        self.register_buffer("basis", None)
        if rank < num_features:
            _allocate(self, basis=(num_features, rank))

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, d] features and [N, C] probabilities, both float64."""
        space = RowSpace.of(features)
        inside = space.coordinates(features)
        contrasts = class_contrasts(self.num_classes).to(features)
        centred = contrasts - (probs @ contrasts)[:, None, :]
        # The rows of this root are √p_c (e_c − p)ᵀU; its Gram matrix is Uᵀ(diag p − ppᵀ)U.
        roots = probs.sqrt()[..., None] * centred
        size = len(self.values)
        hessian = features.new_zeros(size, size)
        for rows in row_slices(len(inside), self.num_classes * size):
            jacobian = torch.einsum("nck,ni->ncki", roots[rows], inside[rows]).reshape(-1, size)
            hessian.addmm_(jacobian.T, jacobian)
        self.values, self.vectors = _eigenpairs(hessian)
        self.basis = space.basis

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI| over all C d weights."""
        flat = self.num_classes * self.num_features - len(self.values)
        return float((self.values + precision).log().sum()) + flat * math.log(precision)

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' covariance [N, C, C] for [N, d] float64 features."""
        space = RowSpace(self.basis)
        inside = space.coordinates(features)
        contrasts = class_contrasts(self.num_classes).to(features)
        size = len(self.values)
        scaled = self.vectors * (self.values + precision).rsqrt()
        scaled = scaled.view(contrasts.shape[1], inside.shape[1], size)
        parts = []
        for rows in row_slices(len(inside), contrasts.shape[1] * size):
            root = torch.einsum("kip,ni->nkp", scaled, inside[rows])
            parts.append(root @ root.mT)
        reduced = torch.cat(parts)
        outside = space.outside(features) / precision
        reduced.diagonal(dim1=-2, dim2=-1).add_(outside)
        shift = features.square().sum(-1) / precision / self.num_classes
        return contrasts @ reduced @ contrasts.T + shift[:, None, None]


class SharedCurvature(nn.Module):
    """Eigenpairs of the Hessian of the shared weights, float64.

    Attributes:
        values: [d], eigenvalues.
        vectors: [d, d], eigenvectors.
    """

    values: Tensor
    vectors: Tensor

    def __init__(self, num_features: int, num_classes: int, rank: int) -> None:
        super().__init__()
        _allocate(self, values=(num_features,), vectors=(num_features, num_features))

    def fit(self, features: Tensor, probs: Tensor) -> None:
        """Set the curvature from [N, C, d] features and [N, C] probabilities, both float64."""
        hessian = torch.zeros_like(self.vectors)
        for rows in row_slices(len(features), features[0].numel()):
            part, p = features[rows], probs[rows]
            mean = (p[:, None] @ part)[:, 0]
            hessian.addmm_((p[..., None] * part).flatten(0, 1).T, part.flatten(0, 1))
            hessian.addmm_(mean.T, mean, alpha=-1)
        self.values, self.vectors = _eigenpairs(hessian)

    def log_determinant(self, precision: float) -> float:
        """Return log|H + δI|."""
        return float((self.values + precision).log().sum())

    def covariance(self, features: Tensor, precision: float) -> Tensor:
        """Return the logits' covariance [N, C, C] for [N, C, d] float64 features."""
        scaled = self.vectors * (self.values + precision).rsqrt()
        roots = (features[rows] @ scaled for rows in row_slices(len(features), features[0].numel()))
        return torch.cat([root @ root.mT for root in roots])


def _eigenpairs(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, at least zero, and eigenvectors, in the layout of loaded ones."""
    values, vectors = torch.linalg.eigh(hessian)
    return values.clamp_min(0), vectors.contiguous()


AnyCurvature = KronCurvature | FullCurvature | SharedCurvature
"""The Hessian of a last layer's weights, made from (d, C, r) with r the rank of the training
features; zeros before `fit`."""


class LaplaceHead(AroundPoint):
    """The head; a `LastLayer`.

    Attributes:
        curvature: The Hessian, None before `fit`.
        precision: δ, a float64 scalar; NaN before `fit`.
        log_evidence: Laplace estimate of the log marginal likelihood at δ in nats per row.
    """

    uses_training_features = True
    curvatures: ClassVar[Mapping[str, type[AnyCurvature]]] = {
        "full": FullCurvature,
        "kron": KronCurvature,
    }
    precision: Tensor
    log_evidence: Tensor

    def __init__(
        self, config: Laplace, num_features: int, num_classes: int, **options: Any
    ) -> None:
        super().__init__(config, num_features, num_classes, **options)
        self.curvature: AnyCurvature | None = None
        self.rank = 0
        for name in ("precision", "log_evidence"):
            self.register_buffer(name, torch.tensor(math.nan, dtype=torch.float64))

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit curvature and prior precision; the mean weights do not change.

        δ is the option if that is a number, and that of the MAP training without `choose_prior`, or
        without the validation rows to choose it on.
        """
        check_fit(train, validation)
        train = train.double()
        logits = super().predict(train).mean
        self._allocate(min(len(train), train.values.shape[-1]))
        self._fitted().fit(train.values, logits.softmax(-1))
        log_likelihood = -float(cross_entropy(logits, train.targets, reduction="sum"))
        precision = self.config.prior_precision
        if isinstance(precision, str):
            precision = self.prior_precision
            if choose_prior:
                precision = self._choose_precision(log_likelihood, validation)
        self.precision.fill_(precision)
        self.log_evidence.fill_(self._evidence(log_likelihood, precision) / len(train))

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits:
        """Return the logits' distribution."""
        return self._logits(rows, float(self.precision))

    def extra_config(self) -> dict[str, Any]:
        """Return whether there is a fit, and the rank of its features."""
        point = super().extra_config()
        if self.curvature is None:
            return point | {"fitted": False}
        return point | {"fitted": True, "rank": self.rank}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the curvature that `extra` describes."""
        super().prepare(extra)
        if extra.get("fitted"):
            self._allocate(int(extra["rank"]))

    def report(self) -> dict[str, float | str]:
        """Return the prior precision, the equivalent prior scale, and the log evidence."""
        if self.curvature is None:
            return {"fitted": "no"}
        precision = float(self.precision)
        return {
            "prior_precision": precision,
            "prior_scale": math.sqrt(float(self.mean_sq_norm) / precision),
            "log_evidence": float(self.log_evidence),
        }

    def _allocate(self, rank: int) -> None:
        classes, size = self.weight.shape
        self.rank = rank
        curvature = self.curvatures[self.config.structure](size, classes, self.rank)
        self.curvature = curvature.to(self.weight.device)

    def _choose_precision(self, log_likelihood: float, validation: Features | None) -> float:
        unit = float(self.mean_sq_norm)
        if self.config.prior_precision == "marglik":

            def evidence(precision: float) -> float:
                return self._evidence(log_likelihood, precision)

            return refine(evidence, best_on_grid(evidence, unit))
        if validation is None:
            logger.debug("no validation data: keeping prior scale %g", self.config.prior_scale)
            return self.prior_precision

        def score(precision: float) -> float:
            logits = self._logits(validation, precision)
            probs = link_probabilities(logits, self.config.link, self.config.num_samples).probs
            return -nll(probs, validation.targets)

        return best_on_grid(score, unit)

    def _evidence(self, log_likelihood: float, precision: float) -> float:
        weight = self.weight.double()
        if self.prior_mean is not None:
            weight = weight - self.prior_mean.double()
        return log_marginal_likelihood(
            log_likelihood,
            float(weight.square().sum()),
            self._fitted().log_determinant(precision),
            weight.numel(),
            precision,
        )

    def _logits(self, rows: Features, precision: float) -> GaussianLogits:
        check_features(rows)
        rows = rows.double()
        covariance = self._fitted().covariance(rows.values, precision)
        return GaussianLogits(super().predict(rows).mean, covariance)

    def _fitted(self) -> AnyCurvature:
        return cast("AnyCurvature", self.curvature)


class SharedLaplaceHead(LaplaceHead):
    """The Laplace approximation for options: features are [N, C, d]."""

    curvatures: ClassVar[Mapping[str, type[AnyCurvature]]] = {
        "full": SharedCurvature,
        "kron": SharedCurvature,
    }
