"""The scores fitted beside a posterior, and their container for fitting, saving and scoring.

Mahalanobis distance of features to the training rows, with one covariance for all classes.

    mahalanobis   min_c (φ − μ_c)ᵀ Σ⁻¹ (φ − μ_c)

Σ is the covariance of the rows around their class means, S, shrunk towards a multiple of the
identity, (1 − ρ) S + ρ (tr S / d) I, with ρ by Ledoit and Wolf 2004 (Journal of Multivariate
Analysis 88), so it is invertible for any number of rows. With fewer rows than features, S lies in
their row space and is stored and decomposed there.

Source: Lee, Lee, Lee and Shin 2018, arXiv 1807.03888.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bayeslora.errors import InputError
from bayeslora.posteriors.feature_scores import (
    DISTANCE,
    FEATURE_SCORES,
    MIDDLE,
    UNFAMILIARITY,
    USUAL_SCORES,
    check_middle,
)
from bayeslora.processes import row_slices

# Keeps the inverse finite where the Ledoit-Wolf shrinkage is zero.
_LEAST_SHRINKAGE = 1e-8


class TiedGaussian(nn.Module):
    """Means of K groups and their common covariance, decomposed for fast distances.

    Attributes:
        means: [K, d] float64.
        directions: [d, r] float64, eigenvectors of S.
        precisions: [r] float64, inverse eigenvalues of Σ along them.
        beyond: Inverse eigenvalue of Σ in every other direction.
        shrinkage: ρ.
    """

    means: Tensor
    directions: Tensor
    precisions: Tensor
    beyond: Tensor
    shrinkage: Tensor

    def __init__(self, num_groups: int, num_features: int, rank: int) -> None:
        super().__init__()
        shapes: dict[str, tuple[int, ...]] = {
            "means": (num_groups, num_features),
            "directions": (num_features, rank),
            "precisions": (rank,),
            "beyond": (),
            "shrinkage": (),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @classmethod
    def fitted(cls, features: Tensor, groups: Tensor) -> TiedGaussian:
        """Fit the Gaussian to [N, d] float64 features with group indices [N].

        Raises:
            InputError: The rows of every group are identical.
        """
        means, centred = _about_means(features, groups)
        rows, size = features.shape
        mean_variance = float(centred.square().sum()) / rows / size
        if not mean_variance > 0:
            raise InputError("Mahalanobis distances need at least one class with different rows")
        values, directions = principal(centred)
        shrinkage = ledoit_wolf(centred, values)
        floor = shrinkage * mean_variance
        variances = (1 - shrinkage) * values + floor
        return cls.of(means, directions, variances, floor, shrinkage)

    @classmethod
    def of(
        cls,
        means: Tensor,
        directions: Tensor,
        variances: Tensor,
        variance_beyond: float,
        shrinkage: float,
    ) -> TiedGaussian:
        """Return the Gaussian with these eigenvalues of Σ, [r] and in every other direction."""
        count, size = means.shape
        gaussian = cls(count, size, len(variances)).to(means.device)
        gaussian.means.copy_(means)
        # Copied into a contiguous buffer: products of other layouts differ in the last bit.
        gaussian.directions.copy_(directions)
        gaussian.precisions.copy_(1 / variances)
        gaussian.beyond.fill_(1 / variance_beyond)
        gaussian.shrinkage.fill_(shrinkage)
        return gaussian

    def distances(self, features: Tensor) -> Tensor:
        """Return the squared distance of [N, d] float64 features to each mean, [N, K]."""
        rows, centres = self.whitened(features), self.whitened(self.means)
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(rows, centres, compute_mode=exact).square()

    def log_determinant(self) -> Tensor:
        """Return log|Σ|, a scalar."""
        size, rank = self.directions.shape
        return -self.precisions.log().sum() - (size - rank) * self.beyond.log()

    def whitened(self, features: Tensor) -> Tensor:
        """Transform [N, d] float64 features to coordinates in which Σ is the identity."""
        inside = features @ self.directions
        whitened = inside * self.precisions.sqrt()
        if self.directions.shape[0] == self.directions.shape[1]:
            return whitened
        outside = features - inside @ self.directions.T
        return torch.cat([whitened, outside * self.beyond.sqrt()], dim=1)


class Mahalanobis(nn.Module):
    """Squared Mahalanobis distance to the nearest class mean.

    Attributes:
        classes: Gaussian of the classes.
    """

    def __init__(self, classes: TiedGaussian) -> None:
        super().__init__()
        self.classes = classes

    @classmethod
    def fitted(cls, features: Tensor, labels: Tensor) -> Mahalanobis:
        """Fit the score to [N, d] float64 training features with labels [N]."""
        return cls(TiedGaussian.fitted(features, labels)).to(features.device)

    def forward(self, features: Tensor) -> Tensor:
        """Return the score [N] of [N, d] float64 features."""
        return self.classes.distances(features).min(1).values

    def extra_config(self) -> dict[str, Any]:
        """Return the shapes, and the shrinkage of the covariance."""
        classes = self.classes
        return {
            "classes": classes.means.shape[0],
            "rank": classes.directions.shape[1],
            "shrinkage": float(classes.shrinkage),
        }


def _about_means(features: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the group means [K, d], in order, and the rows [N, d] minus their group's mean."""
    _, index = torch.unique(groups, return_inverse=True)
    sums = features.new_zeros(int(index.max()) + 1, features.shape[1])
    means = sums.index_add_(0, index, features) / index.bincount()[:, None]
    return means, features - means[index]


def principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues [r] and eigenvectors [d, r] of XᵀX/N for rows X [N, d], r = min(N, d)."""
    rows, size = centred.shape
    if rows < size:
        _, singular, transposed = torch.linalg.svd(centred, full_matrices=False)
        return singular.square() / rows, transposed.T
    values, directions = torch.linalg.eigh(centred.T @ centred / rows)
    return values.clamp_min(0), directions


def ledoit_wolf(centred: Tensor, values: Tensor) -> float:
    """Return the shrinkage ρ in (0, 1] that minimises the expected squared error.

    Args:
        centred: [N, d] rows around their means.
        values: Eigenvalues of S = XᵀX/N; zeros may be omitted.
    """
    rows, size = centred.shape
    square = float(values.square().sum())
    dispersion = square - float(values.sum()) ** 2 / size
    noise = float(centred.square().sum(1).square().sum()) / rows**2 - square / rows
    return max(min(noise, dispersion) / dispersion, _LEAST_SHRINKAGE) if dispersion > 0 else 1.0


NEIGHBOUR = 10
"""k; at most the number of stored rows."""

MAX_ROWS = 10_000
"""Largest number of stored training rows; more are subsampled with a seed."""


# Weights of the distance in the middle and of the doubt.
_MIDDLE, _DOUBT = 0.25, 0.25
# Floors for rows whose predicted class has probability 1, and rows equal to their class mean.
_LEAST_DOUBT, _LEAST_DISTANCE = 1e-12, 1e-12


class NearestRows(nn.Module):
    """Distance of features to their k-th nearest training row, all features scaled to length 1.

    Source: Sun, Ming, Zhu and Li 2022, arXiv 2204.06507, equation 3. They choose k on validation
    data; here it is 10, small enough for hundreds of training rows.

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


class MiddleDistance(nn.Module):
    """Squared Mahalanobis distance of a text's mean state in the middle of the backbone.

        (h − μ)ᵀ Σ⁻¹ (h − μ),  h the mean over tokens, μ and Σ of all training rows, shrunk

    Attributes:
        all_rows: The Gaussian, with one mean.
    """

    def __init__(self, all_rows: TiedGaussian) -> None:
        super().__init__()
        self.all_rows = all_rows

    @classmethod
    def fitted(cls, states: Tensor) -> MiddleDistance:
        """Fit the score to [N, d] states of training rows."""
        groups = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        return cls(TiedGaussian.fitted(states.double(), groups)).to(states.device)

    def forward(self, states: Tensor) -> Tensor:
        """Return the score [N] of [N, d] states."""
        return self.all_rows.distances(states.double())[:, 0]

    def extra_config(self) -> dict[str, Any]:
        """Return the shape, and the shrinkage of the covariance."""
        width, rank = self.all_rows.directions.shape
        return {"width": width, "rank": rank, "shrinkage": float(self.all_rows.shrinkage)}


class Unfamiliarity(nn.Module):
    """One score for near and far shifts, from a row's distances and the doubt about its class.

        unfamiliarity = ¾ log d + ¼ log m + ¼ log(1 − max_c p_c)

    with d the squared Mahalanobis distance of the features to the nearest class, and m that of the
    states in the middle of the backbone; m = d where there are no such states.

    Rows near the border of two classes have a low probability and ordinary distances; rows far from
    all training rows may be classified confidently but have a larger distance. Features of an
    adapter keep what separates the classes, so a far row may lie among them; the middle of the
    backbone usually still separates it. With logarithms the ranking does not depend on the scale of
    a distance, which depends on features and rows. The weights were chosen on development sets
    (`benchmarks/unfamiliarity_weight`).
    """

    def forward(self, doubt: Tensor, distance: Tensor, middle: Tensor | None = None) -> Tensor:
        """Return the score [N].

        Args:
            doubt: [N] float64, 1 − highest probability.
            distance: [N] float64, d.
            middle: [N] float64, m; None if there are no states in the middle.
        """
        log_distance = distance.clamp_min(_LEAST_DISTANCE).log()
        if middle is not None:
            log_middle = middle.clamp_min(_LEAST_DISTANCE).log()
            log_distance = torch.lerp(log_distance, log_middle, _MIDDLE)
        return log_distance + _DOUBT * doubt.clamp_min(_LEAST_DOUBT).log().to(distance)

    def extra_config(self) -> dict[str, Any]:
        """Return nothing: it has no shapes."""
        return {}


AnyScore = Mahalanobis | NearestRows | MiddleDistance | Unfamiliarity


class FeatureScores(nn.Module):
    """Feature scores by name; may be empty.

    Attributes:
        parts: The scores, in the order of `FEATURE_SCORES`.
    """

    def __init__(self, parts: Mapping[str, AnyScore] | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts or {}))

    def _by_name(self) -> Mapping[str, AnyScore]:
        return cast(Mapping[str, AnyScore], self.parts)

    @classmethod
    @torch.no_grad()
    def fitted(
        cls,
        names: Sequence[str] | None,
        features: Tensor,
        labels: Tensor,
        *,
        middle: Tensor | None = None,
        seed: int = 0,
    ) -> FeatureScores:
        """Fit scores to training rows.

        Args:
            names: Keys of `FEATURE_SCORES`, `mahalanobis` with `unfamiliarity`; None takes
                `USUAL_SCORES` if rows of a class differ. With states in the middle,
                `unfamiliarity` also takes `middle_mahalanobis`.
            features: [N, d], as the head sees them.
            labels: [N] int64.
            middle: [N, d] states in the middle of the backbone; None if there are none.
            seed: Seed for the choice of rows that `knn` keeps.

        Raises:
            InputError: The rows do not allow a score.
        """
        rows = features.double()
        if names is None:
            names = USUAL_SCORES if _about_means(rows, labels)[1].any() else ()
        if UNFAMILIARITY in names and MIDDLE not in names and middle is not None:
            names = [*names, MIDDLE]
        check_middle(names, has_middle=middle is not None)
        parts: dict[str, AnyScore] = {}
        for name in FEATURE_SCORES:
            if name not in names:
                continue
            if name == DISTANCE:
                parts[name] = Mahalanobis.fitted(rows, labels)
            elif name == MIDDLE and middle is not None:
                parts[name] = MiddleDistance.fitted(middle)
            elif name == UNFAMILIARITY:
                parts[name] = Unfamiliarity()
            else:
                parts[name] = NearestRows.fitted(features, seed)
        return cls(parts).to(features.device)

    @classmethod
    def empty(cls, extra: Mapping[str, Any], num_features: int) -> FeatureScores:
        """Return empty scores with the shapes in `extra_config`, to load tensors into."""
        parts: dict[str, AnyScore] = {}
        for name, config in extra.items():
            if name == DISTANCE:
                gaussian = TiedGaussian(config["classes"], num_features, config["rank"])
                parts[name] = Mahalanobis(gaussian)
            elif name == MIDDLE:
                parts[name] = MiddleDistance(TiedGaussian(1, config["width"], config["rank"]))
            elif name == UNFAMILIARITY:
                parts[name] = Unfamiliarity()
            else:
                parts[name] = NearestRows(config["rows"], num_features)
        return cls(parts)

    @torch.no_grad()
    def of_features(self, features: Tensor, middle: Tensor | None = None) -> dict[str, Tensor]:
        """Return each score [N], float64, except `unfamiliarity`.

        Args:
            features: [N, d], as the head sees them.
            middle: [N, d] states in the middle of the backbone, for `middle_mahalanobis`.
        """
        rows = features.double()
        return {
            name: part(middle if name == MIDDLE else rows)
            for name, part in self._by_name().items()
            if name != UNFAMILIARITY
        }

    @torch.no_grad()
    def of_probabilities(self, doubt: Tensor, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `unfamiliarity` [N], if it is among the scores.

        Args:
            doubt: [N], 1 − highest probability.
            scores: Result of `of_features`.
        """
        if UNFAMILIARITY not in self.parts:
            return {}
        combined = self._by_name()[UNFAMILIARITY]
        return {UNFAMILIARITY: combined(doubt, scores[DISTANCE], scores.get(MIDDLE))}

    def extra_config(self) -> dict[str, Any]:
        """Return the shapes and settings of each score, JSON-ready."""
        return {name: part.extra_config() for name, part in self._by_name().items()}
