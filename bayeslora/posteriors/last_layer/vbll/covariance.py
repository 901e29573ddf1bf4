"""Covariances of the weights of a linear head: the optimum of each family, with its logits.

At the optimum of the variational objective the precision of class c is

    S_c⁻¹ = I/σ0² + Σ_n w_nc φ_n φ_nᵀ

as far as the family allows, with w_nc the curvature of the bound at each training row:

    dense        S_c = L_c L_cᵀ, that precision
    eigenbasis   S_c = U diag(s_c²) Uᵀ, s_ci² = 1 / (1/σ0² + Σ_n w_nc (u_iᵀφ_n)²)

with U the eigenvectors of Σ_n φ_n φ_nᵀ: features have a few long directions that all classes share,
and there the precision is nearly diagonal for every class.

The options of a row share one weight vector. Their logits are always correlated, so V is [N, C, C]:

    S⁻¹ = I/σ0² + Σ_n Φ_nᵀ W_n Φ_n,   V_n = Φ_n S Φ_nᵀ

An `Optimum` holds the factorised precisions and provides the terms of coordinate ascent: the
covariance of logits, the log-determinant and trace for the KL, and a preconditioner for the means.
Its `stored` tensors are what predictions and files hold, and `logit_covariance` what these say.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bayeslora.posteriors.last_layer.algebra import precision_factor, precision_to_lower
from bayeslora.processes import row_slices


def logit_covariance(features: Tensor, scale: Tensor, basis: Tensor | None = None) -> Tensor:
    """Return the covariance of logits under stored tensors: [N, C], or [N, C, C] of options.

    Args:
        features: [N, d], or of options [N, C, d].
        scale: [C, d] standard deviations, or [C, d, d] lower triangles; of options C = 1.
        basis: [d, d], orthonormal columns along which the weights are independent; None for the
            axes.
    """
    if features.ndim == 3:
        return _of_options(features, scale[0])
    if basis is not None:
        features = features @ basis
    if scale.ndim == 2:
        return features.square() @ scale.square().T
    # One product [rows, d] x [d, C d] instead of C small ones.
    classes, size, _ = scale.shape
    triangles = scale.permute(1, 0, 2).reshape(size, classes * size)
    parts = [
        (features[rows] @ triangles).view(-1, classes, size).square().sum(-1)
        for rows in row_slices(len(features), classes * size)
    ]
    return torch.cat(parts)


def _of_options(features: Tensor, scale: Tensor) -> Tensor:
    """Return Φ S Φᵀ, [N, C, C], for [N, C, d] features and deviations [d] or a triangle [d, d]."""
    parts = []
    for rows in row_slices(len(features), features[0].numel()):
        part = features[rows]
        projected = part @ scale if scale.ndim == 2 else part * scale
        parts.append(projected @ projected.mT)
    return torch.cat(parts)


class Optimum(ABC):
    """The optimal covariance S of C classes' weights in d dimensions; all tensors are float64.

    Attributes:
        train_covariance: Covariance of the training rows' logits, [N, C], or [N, C, C] of options.
        log_determinant: log|S|.
        trace: tr S.
        prior_precision: 1/σ0² inside the precisions.
        dtype: Dtype of the matrices.
    """

    train_covariance: Tensor
    log_determinant: float
    trace: float

    def __init__(
        self,
        features: Tensor,
        weights: Tensor,
        prior_precision: float,
        previous: Optimum | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Find the covariance.

        Args:
            features: [N, d] float64, or of options [N, C, d].
            weights: Curvatures W of the bound, [N, C], or of options [N, C, C].
            prior_precision: 1/σ0².
            previous: Covariances for the same features, whose eigenvectors are reused.
            dtype: Of the matrices of `dense`; in float32 logit variances are accurate to about
                1e-5.
        """
        self.prior_precision = prior_precision
        self.dtype = dtype
        self._solve(features, weights, previous)

    @abstractmethod
    def _solve(self, features: Tensor, weights: Tensor, previous: Optimum | None) -> None:
        """Set the attributes; arguments as for `__init__`."""

    @abstractmethod
    def of_logits(self, features: Tensor) -> Tensor:
        """Return the logits' covariance, [M, C], or [M, C, C] of options."""

    @abstractmethod
    def precondition(self, gradient: Tensor) -> Tensor:
        """Return an approximate inverse Hessian times a [C, d] gradient of the means."""

    @abstractmethod
    def stored(self, features: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return the tensors for predictions and files, in all dimensions of the same rows."""

    def _trace(self, size: int, weights: Tensor) -> float:
        """Return tr S: tr(S S⁻¹), the size, splits into the prior's part and the rows' part."""
        rows = float((weights * self.train_covariance).sum())
        return (size - rows) / self.prior_precision


class Eigenbasis(Optimum):
    """Weights that are independent along the eigenvectors of ΦᵀΦ, with variances s_ci² there.

    Stored as `scale` [C, d], standard deviations, along the columns of `basis` [d, d].
    """

    _variances: Tensor
    _basis: Tensor
    _squares: Tensor

    def _solve(self, features: Tensor, weights: Tensor, previous: Optimum | None) -> None:
        if isinstance(previous, Eigenbasis):
            self._basis, self._squares = previous._basis, previous._squares
        else:
            self._basis = torch.linalg.eigh(features.T @ features)[1]
            self._squares = (features @ self._basis).square()
        self._variances = 1 / (weights.T @ self._squares + self.prior_precision)
        self.train_covariance = self._squares @ self._variances.T
        self.log_determinant = float(self._variances.log().sum())
        self.trace = float(self._variances.sum())

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Σ_i s_ci² (u_iᵀφ)², [M, C]."""
        return logit_covariance(features, self._variances.sqrt(), self._basis)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return S_c g_c: nearly Newton's step of each class with the others fixed."""
        return ((gradient @ self._basis) * self._variances) @ self._basis.T

    def stored(self, features: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return deviations and basis."""
        if features.shape[1] != len(self._basis):  # solved in the rows' space
            return Eigenbasis(features, weights, self.prior_precision).stored(features, weights)
        return {"scale": self._variances.sqrt(), "basis": self._basis}


class Dense(Optimum):
    """A full d x d covariance for each class, as the Cholesky factor R_c of its precision.

    Stored as `scale` [C, d, d], the lower triangles L_c with L_c L_cᵀ = S_c.
    """

    _near: Eigenbasis

    def _solve(self, features: Tensor, weights: Tensor, previous: Optimum | None) -> None:
        rows, curvatures = features.to(self.dtype), weights.to(self.dtype)
        precision = class_precisions(rows, curvatures, self.prior_precision)
        self._factor = precision_factor(precision)
        near = previous._near if isinstance(previous, Dense) else previous
        self._near = Eigenbasis(features, weights, self.prior_precision, near)
        self.train_covariance = self.of_logits(features)
        diagonal = self._factor.diagonal(dim1=-2, dim2=-1).double()
        self.log_determinant = -2 * float(diagonal.log().sum())
        self.trace = self._trace(diagonal.numel(), weights)

    def of_logits(self, features: Tensor) -> Tensor:
        """Return φᵀS_cφ = ‖R_c⁻¹φ‖², [M, C]."""
        classes, size, _ = self._factor.shape
        parts = []
        for rows in row_slices(len(features), classes * size):
            columns = features[rows].to(self._factor).T.expand(classes, -1, -1)
            solved = torch.linalg.solve_triangular(self._factor, columns, upper=False)
            parts.append(solved.square().sum(1).T)
        return torch.cat(parts).to(features)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return nearly S_c g_c, in the eigenbasis: d times cheaper than with the factors."""
        return self._near.precondition(gradient)

    def stored(self, features: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return the lower triangles."""
        precision = class_precisions(features, weights, self.prior_precision)
        return {"scale": precision_to_lower(precision)}


class SharedDense(Optimum):
    """A full covariance of the weights that all options share; stored as `scale` [1, d, d]."""

    def _solve(self, features: Tensor, weights: Tensor, previous: Optimum | None) -> None:
        precision = features.flatten(0, 1).T @ (weights @ features).flatten(0, 1)
        precision.diagonal().add_(self.prior_precision)
        self._scale = precision_to_lower(precision)
        self._factor = precision_factor(precision)
        self.train_covariance = self.of_logits(features)
        self.log_determinant = 2 * float(self._scale.diagonal().log().sum())
        self.trace = self._trace(len(precision), weights)

    def of_logits(self, features: Tensor) -> Tensor:
        """Return Φ S Φᵀ, [M, C, C]."""
        return _of_options(features, self._scale)

    def precondition(self, gradient: Tensor) -> Tensor:
        """Return S g."""
        return torch.cholesky_solve(gradient.T, self._factor).T

    def stored(self, features: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return the triangle."""
        return {"scale": self._scale[None]}


FAMILIES: dict[str, type[Optimum]] = {"dense": Dense, "eigenbasis": Eigenbasis}
"""Families of the weights of classes, by name."""


def class_precisions(features: Tensor, weights: Tensor, prior_precision: float) -> Tensor:
    """Return I/σ0² + Σ_n w_nc φ_n φ_nᵀ, [C, d, d], for [N, d] features and [N, C] weights."""
    classes, size = weights.shape[1], features.shape[1]
    precision = features.new_zeros(classes, size, size)
    for rows in row_slices(len(features), classes * size):
        part = features[rows]
        precision.baddbmm_(part.T * weights[rows].T[:, None, :], part.expand(classes, -1, -1))
    precision.diagonal(dim1=-2, dim2=-1).add_(prior_precision)
    return precision


def packed(lower: Tensor) -> Tensor:
    """Pack [..., n, n] lower triangles by rows into [..., n (n + 1) / 2], without their zeros."""
    rows, columns = torch.tril_indices(*lower.shape[-2:])
    return lower[..., rows, columns]


def unpacked(triangles: Tensor) -> Tensor:
    """Invert `packed`: return the lower triangles [..., n, n]."""
    size = (math.isqrt(8 * triangles.shape[-1] + 1) - 1) // 2
    rows, columns = torch.tril_indices(size, size)
    lower = triangles.new_zeros(*triangles.shape[:-1], size, size)
    lower[..., rows, columns] = triangles
    return lower


def stored_shapes(family: str, num_classes: int, size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the stored tensors of a family for C classes and d features."""
    shapes: dict[str, tuple[int, ...]] = {"scale": (num_classes, size)}
    if family == "dense":
        shapes["scale"] = (num_classes, size, size)
    return shapes | {"basis": (size, size)} if family == "eigenbasis" else shapes
