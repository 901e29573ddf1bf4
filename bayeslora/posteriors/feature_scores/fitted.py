"""The scores fitted beside a posterior, and their container for fitting, saving and scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bayeslora.errors import InputError
from bayeslora.posteriors.feature_scores.options import (
    DISTANCE,
    FEATURE_SCORES,
    MIDDLE,
    UNFAMILIARITY,
    USUAL_SCORES,
    check_middle,
)
from bayeslora.posteriors.mahalanobis import Mahalanobis, TiedGaussian, rows_differ
from bayeslora.runtime import row_slices

FORMER = {"combined"}
"""Scores of earlier versions, ignored when a model is loaded."""

_RELATIVE = {"mahalanobis": False, "relative_mahalanobis": True}


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

    @classmethod
    def empty(cls, extra: Mapping[str, Any]) -> MiddleDistance:
        """Return an empty score with the shape in `extra_config`, to load tensors into."""
        return cls(TiedGaussian(1, int(extra["width"]), int(extra["rank"])))

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
        score: Tensor = log_distance + _DOUBT * doubt.clamp_min(_LEAST_DOUBT).log().to(distance)
        return score

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
            names = USUAL_SCORES if rows_differ(rows, labels) else ()
        if UNFAMILIARITY in names and MIDDLE not in names and middle is not None:
            names = [*names, MIDDLE]
        check_middle(names, has_middle=middle is not None)
        parts: dict[str, AnyScore] = {}
        for name in FEATURE_SCORES:
            if name not in names:
                continue
            if name in _RELATIVE:
                parts[name] = Mahalanobis.fitted(rows, labels, relative=_RELATIVE[name])
            elif name == MIDDLE and middle is not None:
                parts[name] = MiddleDistance.fitted(middle)
            elif name == UNFAMILIARITY:
                parts[name] = Unfamiliarity()
            else:
                parts[name] = NearestRows.fitted(features, seed)
        return cls(parts).to(features.device)

    @classmethod
    def empty(cls, extra: Mapping[str, Any], num_features: int) -> FeatureScores:
        """Return empty scores with the shapes in `extra_config`, to load tensors into.

        Raises:
            InputError: `extra` is not a valid `extra_config`.
        """
        parts: dict[str, AnyScore] = {}
        try:
            for name, config in extra.items():
                if name in _RELATIVE:
                    parts[name] = Mahalanobis.empty(config, num_features, relative=_RELATIVE[name])
                elif name == MIDDLE:
                    parts[name] = MiddleDistance.empty(config)
                elif name in FORMER:
                    continue
                elif name == UNFAMILIARITY and not config and DISTANCE in extra:
                    parts[name] = Unfamiliarity()
                else:
                    parts[name] = {"knn": NearestRows}[name].empty(config, num_features)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the record of the feature scores is damaged: {error}", code="damaged"
            ) from None
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
