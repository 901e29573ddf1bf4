"""Choosing the prior scale of a variational last layer, and its means, at the polish."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayeslora.links import link_probabilities
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE
from bayeslora.posteriors.config import CROSS_VALIDATION, PRIOR_SCALE_GRID, VBLL
from bayeslora.posteriors.scores import nll
from bayeslora.posteriors.vbll_cost import with_family
from bayeslora.posteriors.vbll_polish import Polished, Start, polish

logger = logging.getLogger(__name__)

# Scales are compared by their validation NLL, where a looser fit already ranks them.
_GRID_TOLERANCE = 1e-4
# The bound is flat in the prior scale: below this, rounds change the NLL by a thousandth at most.
_LEARNING_TOLERANCE = 1e-5
# Held means are short of their optimum, so that their size says little about a prior; a wide one
# would only add variance to logits that are too small already.
HELD_PRIOR_SCALE = 0.5
WIDE_PRIOR_SCALE = 8.0
"""What a last layer on frozen features takes where rows are few and tell the classes apart: the
bound is then highest at priors that are far too narrow."""
FOLDS = 5


@dataclass(frozen=True)
class Polisher:
    """Final fits of a variational last layer to the features of one adapter.

    Attributes:
        config: Bound, covariance, prior scale, means, link.
        features: [N, d] of the training rows.
        labels: [N] int64.
        num_classes: C.
        mean_sq_norm: Mean ‖φ‖² behind the prior scale: σ0² = τ² / mean ‖φ‖².
        validation: Features and labels of held-out rows; without them a prior scale `validation`
            means `empirical-bayes`, as `auto` does here, and means `validation` are refit.
        prior_mean: [C, d]; None for zero.
    """

    config: VBLL
    features: Tensor
    labels: Tensor
    num_classes: int
    mean_sq_norm: float
    validation: tuple[Tensor, Tensor] | None = None
    prior_mean: Tensor | None = None

    def fit(self, start: Start | None = None, trained: Start | None = None) -> Polished:
        """Return the posterior that the configuration asks for.

        Args:
            start: A previous fit of nearly the same features; the prior mean otherwise.
            trained: The posterior as training left it; without it means are refit.
        """
        means = self.config.polish_mean
        if trained is None or means == "refit" or (means, self.validation) == ("validation", None):
            return self._under_prior(start)
        held = self._under_prior(trained, hold_mean=True)
        if means == "trained":
            return held
        return min((self._under_prior(start), held), key=self._validation_nll)

    def _under_prior(self, start: Start | None, *, hold_mean: bool = False) -> Polished:
        scale = self.config.prior_scale
        if not isinstance(scale, str):
            return self._fit(scale, start, hold_mean=hold_mean)
        if scale == "validation" and self.validation is not None:
            return self._on_grid(start, hold_mean=hold_mean)
        if hold_mean:
            return self._fit(HELD_PRIOR_SCALE, start, hold_mean=True)
        if scale == CROSS_VALIDATION and self._wide_is_better():
            return self._fit(WIDE_PRIOR_SCALE, start, hold_mean=False)
        return self._learned(start)

    def _learned(self, start: Start | None) -> Polished:
        return self._fit(
            DEFAULT_PRIOR_SCALE, start, _LEARNING_TOLERANCE, hold_mean=False, learn_prior=True
        )

    def _wide_is_better(self) -> bool:
        """Tell whether a wide prior has the lower NLL on parts of the rows that are left out."""
        fold = _folds(self.labels)
        gain = 0.0
        for number in range(FOLDS):
            held = fold == number
            if not held.any() or held.all():
                continue
            rest = replace(
                self,
                features=self.features[~held],
                labels=self.labels[~held],
                validation=(self.features[held], self.labels[held]),
            )
            wide = rest._fit(WIDE_PRIOR_SCALE, None, _LEARNING_TOLERANCE, hold_mean=False)
            apart = rest._validation_nll(rest._learned(None)) - rest._validation_nll(wide)
            gain += apart * int(held.sum())
        return gain > 0

    def _on_grid(self, start: Start | None, *, hold_mean: bool) -> Polished:
        scores: dict[float, float] = {}
        starts: dict[float, Start] = {}
        for scale in PRIOR_SCALE_GRID:
            candidate = self._fit(scale, start, _GRID_TOLERANCE, hold_mean=hold_mean)
            start = starts[scale] = candidate.start
            scores[scale] = self._validation_nll(candidate)
        best = min(scores, key=scores.__getitem__)
        if best in {PRIOR_SCALE_GRID[0], PRIOR_SCALE_GRID[-1]} and not hold_mean:
            logger.warning("the best prior scale, %g, is at the edge of %s", best, PRIOR_SCALE_GRID)
        return self._fit(best, starts[best], hold_mean=hold_mean)

    def _fit(
        self,
        scale: float,
        start: Start | None,
        tolerance: float = 1e-6,
        *,
        hold_mean: bool,
        learn_prior: bool = False,
    ) -> Polished:
        polished = polish(
            self.features,
            self.labels,
            self.num_classes,
            prior_variance=scale**2 / self.mean_sq_norm,
            bound=self.config.polish_bound,
            covariance=with_family(self.config, "dense").covariance,
            rank=self.config.rank,
            start=start,
            learn_prior=learn_prior,
            hold_mean=hold_mean,
            prior_mean=self.prior_mean,
            tolerance=tolerance,
        )
        return polished.refined() if self.config.laplace_refinement else polished

    def _validation_nll(self, polished: Polished) -> float:
        if self.validation is None:
            raise ValueError("nothing to compare fits on")
        features, labels = self.validation
        logits = GaussianLogits(*polished.moments(features))
        return nll(
            link_probabilities(logits, self.config.link, self.config.num_samples).probs, labels
        )


def _folds(labels: Tensor) -> Tensor:
    """Return [N] the fold of each row: rows of a class are dealt out in a fixed random order."""
    generator = torch.Generator().manual_seed(0)
    fold = torch.empty(len(labels), dtype=torch.long)
    for place, label in enumerate(sorted(set(labels.tolist()))):
        rows = (labels == label).nonzero().ravel().cpu()
        order = torch.randperm(len(rows), generator=generator)
        fold[rows[order]] = (torch.arange(len(rows)) + place) % FOLDS
    return fold.to(labels.device)
