"""Choice of shrinkage and inflation of a generative last layer by the NLL of held-out rows.

    log p(c | φ) = log π_c − d/2 log(1 + s_c) − q_c(ρ) / 2a(1 + s_c) + const,   s_c = 1 / (n_c + κ)

with q_c(ρ) the squared distance of φ to m_c under the covariance shrunk by ρ. It is linear in 1/a,
so the NLL is convex in 1/a, and a search over log a for each ρ of a grid finds the optimum.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.errors import InputError
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.last_layer.gvbll.density import log_shares
from bayeslora.posteriors.last_layer.gvbll.options import GVBLL
from bayeslora.posteriors.last_layer.gvbll.scatter import Scatter

logger = logging.getLogger(__name__)

SHRINKAGE_GRID: tuple[float, ...] = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
INFLATION_RANGE = (2.0**-4, 2.0**16)
NUM_FOLDS = 5

_TOLERANCE = 1e-4
# Bonus in nats per unit of log inflation: decides for the larger inflation if all rows are correct.
_IN_DOUBT = 1e-6


@dataclass(frozen=True)
class HeldOut:
    """Rows held out from a scatter, in its coordinates.

    Attributes:
        scatter: Scatter of the other rows.
        prior_rows: κ.
        inside: [M, r] coordinates.
        outside: [M] squared norms outside the scatter's directions.
        labels: [M] int64.
        known: [M, C] logits known in advance; None for zero.
    """

    scatter: Scatter
    prior_rows: float
    inside: Tensor
    outside: Tensor
    labels: Tensor
    known: Tensor | None

    @classmethod
    def of(cls, scatter: Scatter, prior_rows: float, rows: Features) -> HeldOut:
        """Convert labelled rows to the coordinates of a scatter."""
        rows = rows.double()
        return cls(scatter, prior_rows, *scatter.coordinates(rows.values), rows.targets, rows.known)

    def terms(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return o [C] or [M, C] and Q [M, C]: the logits are o − Q / a at inflation a."""
        values, floor = self.scatter.shrunk(shrinkage)
        means = self.scatter.coordinates(self.scatter.means)[0]
        rows, centres = self.inside / values.sqrt(), means / values.sqrt()
        exact = "donot_use_mm_for_euclid_dist"
        squares = torch.cdist(rows, centres, compute_mode=exact).square()
        spread = 1 / (self.scatter.counts + self.prior_rows)
        size = len(self.scatter.centre)
        offset = log_shares(self.scatter.counts) - 0.5 * size * spread.log1p()
        offset = offset if self.known is None else offset + self.known
        return offset, 0.5 * (squares + self.outside[:, None] / floor) / (1 + spread)


def choose(
    config: GVBLL, train: Features, scatter: Scatter, validation: Features | None
) -> tuple[float, float]:
    """Return the shrinkage and the inflation, chosen as configured.

    Args:
        config: Values of the two, or how to choose them.
        train: The rows of `scatter`, float64.
        scatter: Scatter of all training rows.
        validation: Held-out rows; None cross-validates on the training rows.

    Raises:
        InputError: There is a single training row, and no validation rows.
    """
    shrinkages = SHRINKAGE_GRID
    if not isinstance(config.shrinkage, str):
        shrinkages = (config.shrinkage,)
    elif config.shrinkage == "ledoit-wolf":
        shrinkages = (scatter.ledoit_wolf,)
    if not config.needs_held_out:
        return shrinkages[0], float(config.inflation)
    held_out = (
        _folds(train, len(scatter.counts), config.prior_rows)
        if validation is None
        else [HeldOut.of(scatter, config.prior_rows, validation)]
    )
    candidates = [(*_best_inflation(config, held_out, rho), rho) for rho in shrinkages]
    _, inflation, shrinkage = min(candidates)
    if config.inflation == "validation" and not _is_inside(inflation):
        logger.warning(
            "the best inflation by held-out NLL, %g, is at the edge of the search", inflation
        )
    return shrinkage, inflation


def _folds(train: Features, num_classes: int, prior_rows: float) -> list[HeldOut]:
    """Hold out every row once, with each class spread over all folds."""
    rows, labels = len(train), train.targets
    if rows < 2:
        raise InputError("posterior 'gvbll' cannot choose its shrinkage from a single row")
    count = min(NUM_FOLDS, rows)
    fold = torch.empty_like(labels)
    fold[labels.argsort(stable=True)] = torch.arange(rows, device=labels.device) % count
    parts = []
    for index in range(count):
        held_out = fold == index
        scatter = Scatter.of(train.values[~held_out], labels[~held_out], num_classes, prior_rows)
        parts.append(HeldOut.of(scatter, prior_rows, train.take(held_out)))
    return parts


def _best_inflation(
    config: GVBLL, held_out: list[HeldOut], shrinkage: float
) -> tuple[float, float]:
    """Return the lowest NLL, in nats per row, and the inflation that attains it."""
    from scipy.optimize import minimize_scalar

    score = _nll(held_out, shrinkage)
    if not isinstance(config.inflation, str):
        return score(math.log(config.inflation)), config.inflation
    bounds = tuple(map(math.log, INFLATION_RANGE))
    best = minimize_scalar(
        lambda power: score(power) - _IN_DOUBT * power,
        bounds=bounds,
        method="bounded",
        options={"xatol": _TOLERANCE},
    )
    return float(best.fun), math.exp(best.x)


def _nll(held_out: list[HeldOut], shrinkage: float) -> Callable[[float], float]:
    parts = [(*part.terms(shrinkage), part.labels) for part in held_out]
    total = sum(len(labels) for _, _, labels in parts)

    def score(log_inflation: float) -> float:
        precision = math.exp(-log_inflation)
        losses = [
            cross_entropy(offset - precision * squares, labels, reduction="sum")
            for offset, squares, labels in parts
        ]
        return float(torch.stack(losses).sum()) / total

    return score


def _is_inside(inflation: float) -> bool:
    low, high = INFLATION_RANGE
    return low * (1 + 10 * _TOLERANCE) < inflation < high * (1 - 10 * _TOLERANCE)
