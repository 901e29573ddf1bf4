"""Generative last layer (G-VBLL) in conjugate form: class means are random, Σ is estimated.

    y ~ Cat(π),   φ | y = c ~ N(μ_c, Σ),   μ_c ~ N(m0, Σ/κ),   Σ = a ((1 − ρ) S + ρ t I)
    q(μ_c) = N(m_c, S_c),   m_c = m0 + n_c / (n_c + κ) (φ̄_c − m0),   S_c = Σ / (n_c + κ)
    p(c | φ) ∝ π_c N(φ; m_c, S_c + Σ)

Given Σ, the posterior q of the means is exact, and so is the prediction: no bound is optimised. ρ
shrinks the scatter S of the rows (`scatter.py`), and a > 1 compensates for features that are not
Gaussian; both are chosen by the NLL of held-out rows (`choice.py`).

The adapter trains with a softmax layer by maximum likelihood; `fit` replaces it in predictions.

Source: Harrison, Willes and Snoek 2024, arXiv 2404.11599, who fit Σ and q by gradient steps on the
bound that is reported here as `label_bound`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bayeslora.logits import GaussianLogits, SampledLogits
from bayeslora.posteriors.features import Features, check_features, check_fit
from bayeslora.posteriors.last_layer.gvbll.choice import choose
from bayeslora.posteriors.last_layer.gvbll.density import (
    Distances,
    draw_logits,
    label_bound,
    log_joint,
    log_shares,
)
from bayeslora.posteriors.last_layer.gvbll.options import GVBLL
from bayeslora.posteriors.last_layer.gvbll.scatter import Scatter
from bayeslora.posteriors.mahalanobis import TiedGaussian
from bayeslora.posteriors.point import AroundPoint

_MEASURED = ("inflation", "label_bound")


class GVBLLHead(AroundPoint):
    """The head; a `LastLayer`. Before a fit it is the trained softmax layer.

    Attributes:
        point: The softmax layer.
        gaussian: Means m_c [C, d] and covariance Σ, None before `fit`.
        counts: [C] float64, rows per class.
        inflation: a.
        label_bound: Published bound, mean over rows, in nats.
    """

    # Epochs are compared by the softmax layer: ρ and a are chosen once, at the end.
    uses_training_features = False
    counts: Tensor
    inflation: Tensor
    label_bound: Tensor

    def __init__(self, config: GVBLL, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(config, num_features, num_classes, **options)
        self.gaussian: TiedGaussian | None = None
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.float64))
        for name in _MEASURED:
            self.register_buffer(name, torch.tensor(math.nan, dtype=torch.float64))

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit the Gaussians; the softmax layer does not change.

        `choose_prior=False` takes Ledoit-Wolf shrinkage and no inflation if these are not numbers.

        Raises:
            InputError: Features are not finite, all rows have the same features, or there is a
                single row to choose on.
        """
        check_fit(train, validation)
        config = self.config if choose_prior else _unchosen(self.config)
        train = train.double()
        labels = train.targets
        scatter = Scatter.of(train.values, labels, len(self.counts), config.prior_rows)
        shrinkage, inflation = choose(config, train, scatter, validation)
        values, floor = scatter.shrunk(shrinkage)
        self.gaussian = gaussian = TiedGaussian.of(
            scatter.means, scatter.directions, inflation * values, inflation * floor, shrinkage
        )
        self.counts.copy_(scatter.counts)
        self.inflation.fill_(inflation)
        bound = label_bound(self._distances(gaussian, train), labels)
        self.label_bound.fill_(float(bound.mean()))

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits | SampledLogits:
        """Return draws [S, N, C] and the exact log p(c, φ); before a fit, the softmax logits."""
        if self.gaussian is None:
            return self.point.predict(rows)
        rows = rows.double()
        distances = self._distances(self.gaussian, rows)
        draws = draw_logits(distances, self.config.num_samples, self.seed)
        joint = log_joint(distances, self.gaussian.log_determinant())
        if rows.known is None:
            return SampledLogits(draws, joint)
        return SampledLogits(draws + rows.known, joint + rows.known)

    @torch.no_grad()
    def scores_of(self, rows: Features) -> dict[str, Tensor]:
        """Return `log_density` [N], −log p(φ) in nats; nothing before a fit."""
        if self.gaussian is None:
            return {}
        distances = self._distances(self.gaussian, rows)
        joint = log_joint(distances, self.gaussian.log_determinant())
        return {"log_density": -joint.logsumexp(1)}

    def extra_config(self) -> dict[str, Any]:
        """Return whether there is a fit, and the rank of its scatter."""
        if self.gaussian is None:
            return {"fitted": False}
        return {"fitted": True, "rank": self.gaussian.directions.shape[1]}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the Gaussians that `extra` describes."""
        if not extra.get("fitted"):
            return
        classes, size = self.point.weight.shape
        gaussian = TiedGaussian(classes, size, int(extra["rank"]))
        self.gaussian = gaussian.to(self.counts.device)

    def report(self) -> dict[str, float | str]:
        """Return shrinkage, inflation and the published bound, in nats per row."""
        if self.gaussian is None:
            return {"fitted": "no"}
        return {
            "shrinkage": float(self.gaussian.shrinkage),
            **{name: float(getattr(self, name)) for name in _MEASURED},
        }

    def _distances(self, gaussian: TiedGaussian, rows: Features) -> Distances:
        check_features(rows)
        values = rows.values.double()
        spread = 1 / (self.counts + self.config.prior_rows)
        return Distances(
            gaussian.distances(values), spread, log_shares(self.counts), values.shape[1]
        )


def _unchosen(config: GVBLL) -> GVBLL:
    """Return the configuration without options chosen on held-out rows."""
    if config.shrinkage == "validation":
        config = replace(config, shrinkage="ledoit-wolf")
    return replace(config, inflation=1.0) if config.inflation == "validation" else config
