"""The scores fitted beside a posterior, and their container for fitting, saving and scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bayeslora.errors import InputError
from bayeslora.posteriors.feature_scores.options import DISTANCE, UNFAMILIARITY, USUAL_SCORES
from bayeslora.posteriors.mahalanobis import Mahalanobis, rows_differ
from bayeslora.runtime import row_slices

FORMER = {"combined"}
"""Scores of earlier versions, ignored when a model is loaded."""

_RELATIVE = {"mahalanobis": False, "relative_mahalanobis": True}


NEIGHBOUR = 10
"""k; at most the number of stored rows."""

MAX_ROWS = 10_000
"""Largest number of stored training rows; more are subsampled with a seed."""


_WEIGHT = 0.25
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


class Unfamiliarity(nn.Module):
    """One score for near and far shifts, from a row's distance and the doubt about its class.

        unfamiliarity = log d + ¼ log(1 − max_c p_c)

    with d the squared Mahalanobis distance of the features to the nearest class. Rows near the
    border of two classes have a low probability and an ordinary distance; rows far from all
    training rows may be classified confidently but have a larger distance. With logarithms the
    ranking does not depend on the scale of the distance, which depends on features and rows. The
    weight was chosen on development sets: smaller weights are better for far rows of a decoder,
    larger ones for near rows and encoders (`benchmarks/unfamiliarity_weight`).
    """

    def forward(self, doubt: Tensor, distance: Tensor) -> Tensor:
        """Return the score [N].

        Args:
            doubt: [N] float64, 1 − highest probability.
            distance: [N] float64, squared Mahalanobis distance.
        """
        log_distance = distance.clamp_min(_LEAST_DISTANCE).log()
        score: Tensor = log_distance + _WEIGHT * doubt.clamp_min(_LEAST_DOUBT).log().to(distance)
        return score

    def extra_config(self) -> dict[str, Any]:
        """Return nothing: it has no shapes."""
        return {}


AnyScore = Mahalanobis | NearestRows | Unfamiliarity


class FeatureScores(nn.Module):
    """Feature scores by name; may be empty.

    Attributes:
        parts: The scores, in the requested order.
    """

    def __init__(self, parts: Mapping[str, AnyScore] | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts or {}))

    def _by_name(self) -> Mapping[str, AnyScore]:
        return cast(Mapping[str, AnyScore], self.parts)

    @classmethod
    @torch.no_grad()
    def fitted(
        cls, names: Sequence[str] | None, features: Tensor, labels: Tensor, seed: int = 0
    ) -> FeatureScores:
        """Fit scores to training rows.

        Args:
            names: Keys of `FEATURE_SCORES`, `mahalanobis` with `unfamiliarity`; None takes
                `USUAL_SCORES` if rows of a class differ.
            features: [N, d], as the head sees them.
            labels: [N] int64.
            seed: Seed for the choice of rows that `knn` keeps.

        Raises:
            InputError: The rows do not allow a score.
        """
        rows = features.double()
        parts: dict[str, AnyScore] = {}
        if names is None:
            names = USUAL_SCORES if rows_differ(rows, labels) else ()
        for name in names:
            if name in _RELATIVE:
                parts[name] = Mahalanobis.fitted(rows, labels, relative=_RELATIVE[name])
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
    def of_features(self, features: Tensor) -> dict[str, Tensor]:
        """Return each score [N] of [N, d] features, float64, except `unfamiliarity`."""
        rows = features.double()
        return {name: part(rows) for name, part in self._by_name().items() if name != UNFAMILIARITY}

    @torch.no_grad()
    def of_probabilities(self, doubt: Tensor, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `unfamiliarity` [N], if it is among the scores.

        Args:
            doubt: [N], 1 − highest probability.
            scores: Result of `of_features`.
        """
        if UNFAMILIARITY not in self.parts:
            return {}
        return {UNFAMILIARITY: self._by_name()[UNFAMILIARITY](doubt, scores[DISTANCE])}

    def extra_config(self) -> dict[str, Any]:
        """Return the shapes and settings of each score, JSON-ready."""
        return {name: part.extra_config() for name, part in self._by_name().items()}
