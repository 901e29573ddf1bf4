"""Container of the scores fitted beside a posterior, for fitting, saving and scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError
from bayeslora.posteriors.feature_scores.nearest import NearestRows
from bayeslora.posteriors.feature_scores.options import DISTANCE, UNFAMILIARITY, USUAL_SCORES
from bayeslora.posteriors.feature_scores.unfamiliarity import Unfamiliarity
from bayeslora.posteriors.mahalanobis import Mahalanobis, rows_differ

AnyScore = Mahalanobis | NearestRows | Unfamiliarity

FORMER = {"combined"}
"""Scores of earlier versions, ignored when a model is loaded."""

_RELATIVE = {"mahalanobis": False, "relative_mahalanobis": True}


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
