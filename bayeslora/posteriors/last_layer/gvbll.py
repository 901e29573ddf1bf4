"""Generative last layer (G-VBLL) in conjugate form: class means are random, Σ is estimated.

    y ~ Cat(π),   φ | y = c ~ N(μ_c, Σ),   μ_c ~ N(m0, Σ/κ),   Σ = a ((1 − ρ) S + ρ t I)
    q(μ_c) = N(m_c, S_c),   m_c = m0 + n_c / (n_c + κ) (φ̄_c − m0),   S_c = Σ / (n_c + κ)
    p(c | φ) ∝ π_c N(φ; m_c, S_c + Σ)

Given Σ, the posterior q of the means is exact, and so is the prediction: no bound is optimised. ρ
shrinks the scatter S of the rows, and a > 1 compensates for features that are not
Gaussian; both are chosen by the NLL of held-out rows.

The adapter trains with a softmax layer by maximum likelihood; `fit` replaces it in predictions.

Source: Harrison, Willes and Snoek 2024, arXiv 2404.11599, who fit Σ and q by gradient steps on a
bound.

*Scatter*: counts, means and covariance of the training rows.

    N S = Σ_n (φ_n − φ̄_{y_n})(φ_n − φ̄_{y_n})ᵀ + Σ_c κ n_c / (κ + n_c) (φ̄_c − m0)(φ̄_c − m0)ᵀ

S is the Σ that maximises p(Φ | y, Σ) with the class means integrated out under N(m0, Σ/κ). It is
shrunk to (1 − ρ) S + ρ t I with t = tr S / d, the mode under an inverse Wishart prior around t I
worth ρ / (1 − ρ) N rows. In the eigenbasis of S, shrinkage only changes the eigenvalues.

*Densities* and draws of the means.

    φ | c ~ N(μ_c, Σ),   q(μ_c) = N(m_c, s_c Σ),   s_c = 1 / (n_c + κ),   π_c = (n_c + 1) / (N + C)

    p(c, φ) = π_c N(φ; m_c, (1 + s_c) Σ)

Everything follows from the squared distances D_c = (φ − m_c)ᵀ Σ⁻¹ (φ − m_c).

*Choice* of shrinkage and inflation by the NLL of held-out rows.

    log p(c | φ) = log π_c − d/2 log(1 + s_c) − q_c(ρ) / 2a(1 + s_c) + const,   s_c = 1 / (n_c + κ)

with q_c(ρ) the squared distance of φ to m_c under the covariance shrunk by ρ. It is linear in 1/a,
so the NLL is convex in 1/a, and a search over log a for each ρ of a grid finds the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from bayeslora.errors import InputError
from bayeslora.links import antithetic_noise
from bayeslora.logits import GaussianLogits, SampledLogits
from bayeslora.option_checks import Count, Positive
from bayeslora.posteriors.base import FitFacts, Posterior
from bayeslora.posteriors.fitted_scores import TiedGaussian, ledoit_wolf, principal
from bayeslora.posteriors.point import AroundPoint
from bayeslora.posteriors.types import Features, check_features, check_fit
from bayeslora.processes import row_slices


@dataclass(frozen=True)
class GVBLL(Posterior):
    """Generative last layer: Gaussian features of each class, with a random mean."""

    shrinkage: Annotated[float, Interval(gt=0, le=1)] | Literal["validation"] = "validation"
    """Weight ρ with which the covariance of the features is shrunk towards a multiple of the
    identity. `validation` minimises the validation NLL, or the five-fold cross-validated NLL if
    there are no validation rows."""
    inflation: Positive | Literal["validation"] = "validation"
    """Factor on that covariance: the likelihood of a row's features is raised to the power 1 /
    `inflation`. `validation` as above; 1 leaves the Gaussian as it is."""
    prior_rows: Positive = 1.0
    """Strength of the prior on a class mean, in rows: its covariance is that of the features
    divided by this number."""
    num_samples: Count = 200
    """Draws of the means, which split the uncertainty into its parts; probabilities are in closed
    form."""

    name: ClassVar[str] = "gvbll"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.gvbll:GVBLLHead"
    summary: ClassVar[str] = "generative last layer: Gaussian features per class, random means"
    use: ClassVar[str] = (
        "Detecting inputs far from the training data, with held-out examples to choose its options."
    )
    source: ClassVar[str] = "Harrison, Willes and Snoek 2024, arXiv 2404.11599"
    passes: ClassVar[str] = "1"
    moves_mean: ClassVar[bool] = True

    @property
    def needs_held_out(self) -> bool:
        """Whether an option is chosen on rows that the network was not trained on."""
        return "validation" in (self.shrinkage, self.inflation)

    def check_fit(self, facts: FitFacts) -> None:
        """Check that there are validation rows if needed, and no cross-validation."""
        if facts.cross_validates:
            raise InputError(
                "cv has no effect on posterior 'gvbll', whose logits do not grow with its "
                "features; inflation sets its confidence. Leave cv out",
                code="no-effect",
                options=("cv",),
            )
        if self.needs_held_out and facts.adapter_trains and not facts.is_validated:
            raise InputError(
                "posterior 'gvbll' needs validation data: the features of training rows are too "
                "well separated to choose shrinkage and inflation; give validation data, or set "
                "both to numbers",
                code="needs-validation",
            )


# Relative rounding error in the mean of equal rows; distinct float32 rows differ by more.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class Scatter:
    """Sufficient statistics of N rows with d features and C classes; float64.

    Attributes:
        counts: [C], rows per class.
        centre: [d], mean of all rows, m0.
        means: [C, d], posterior means of the class means, m_c.
        values: [r], eigenvalues of S; all others are zero.
        directions: [d, r], its eigenvectors.
        ledoit_wolf: ρ that minimises the expected squared error.
    """

    counts: Tensor
    centre: Tensor
    means: Tensor
    values: Tensor
    directions: Tensor
    ledoit_wolf: float

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, num_classes: int, prior_rows: float) -> Scatter:
        """Summarise [N, d] float64 features with labels [N]; a class may have no rows.

        Raises:
            InputError: All rows have the same features.
        """
        counts = torch.bincount(labels, minlength=num_classes).to(features.dtype)
        centre = features.mean(0)
        centred = features - centre
        sums = torch.zeros_like(centred[:1]).expand(num_classes, -1)
        sums = sums.index_add(0, labels, centred)
        sample = sums / counts.clamp_min(1)[:, None]
        weight = (prior_rows * counts / (prior_rows + counts)).sqrt()
        residuals = torch.cat([centred - sample[labels], weight[:, None] * sample])
        if float(residuals.norm()) <= _ROUNDING * float(features.norm()):
            raise InputError("posterior 'gvbll' needs rows with different features; all are equal")
        values, directions = principal(residuals)
        return cls(
            counts,
            centre,
            centre + sums / (prior_rows + counts)[:, None],
            values * len(residuals) / len(features),
            directions,
            ledoit_wolf(residuals, values),
        )

    def shrunk(self, shrinkage: float) -> tuple[Tensor, float]:
        """Return the eigenvalues [r] of the shrunk covariance, and that of all other directions.

        Args:
            shrinkage: ρ in (0, 1].
        """
        floor = shrinkage * float(self.values.sum()) / len(self.centre)
        return (1 - shrinkage) * self.values + floor, floor

    def coordinates(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return [N, r] coordinates of [N, d] features about m0, and squared residual norms [N]."""
        centred = features - self.centre
        inside = centred @ self.directions
        return inside, (centred - inside @ self.directions.T).square().sum(1)


# Draws x rows x classes per chunk, 8 MB in float64; a few such arrays are held at once.
_AT_A_TIME = 1 << 20


def log_shares(counts: Tensor) -> Tensor:
    """Return log π [C], with π the posterior mean class shares under a uniform Dirichlet prior."""
    return (counts + 1).log() - math.log(float(counts.sum()) + len(counts))


@dataclass(frozen=True)
class Distances:
    """Distances of rows to the class means, and further terms of their densities.

    Attributes:
        squared: [N, C], D.
        spread: [C], s.
        shares: [C], log π.
        size: d.
    """

    squared: Tensor
    spread: Tensor
    shares: Tensor
    size: int


def log_joint(rows: Distances, log_determinant: Tensor | float = 0.0) -> Tensor:
    """Return log p(c, φ) [N, C] with the means integrated out.

    Args:
        rows: N rows.
        log_determinant: log|Σ|; 0 yields the densities of whitened features.
    """
    growth = rows.size * rows.spread.log1p()
    constant = rows.size * math.log(2 * math.pi) + log_determinant
    return rows.shares - 0.5 * (rows.squared / (1 + rows.spread) + growth + constant)


def draw_logits(rows: Distances, num_samples: int, seed: int) -> Tensor:
    """Return log π_c − ½ (φ − μ_c)ᵀ Σ⁻¹ (φ − μ_c) under draws of the means, [S, N, C].

    The draws are from p(μ | data, φ): the row's features are informative about the means too, and
    only then is the softmax of `log_joint` the mean of the softmax over draws. In a draw the row
    has class c with probability p(c | φ), which moves μ_c alone, to
    N(m_c + s_c / (1 + s_c) (φ − m_c), s_c / (1 + s_c) Σ). The squared distance to a normal point is
    a non-central chi-squared number, so two numbers per draw and class represent all d coordinates.
    All rows share one block of noise.

    Args:
        rows: N rows.
        num_samples: S.
        seed: Seed of the draws.
    """
    classes, size = len(rows.spread), rows.size
    along = antithetic_noise(num_samples, (classes,), seed, rows.squared)
    generator = np.random.default_rng(seed)
    shape = (num_samples, classes)
    chi_squared = generator.chisquare(size - 1, shape) if size > 1 else np.zeros(shape)
    order = torch.from_numpy(generator.permutation(num_samples)).to(rows.squared)
    across = torch.from_numpy(chi_squared).to(rows.squared)
    parts = [
        _draw_chunk(replace(rows, squared=rows.squared[chunk]), along, across, order)
        for chunk in row_slices(len(rows.squared), num_samples * classes, _AT_A_TIME)
    ]
    return torch.cat(parts, 1)


def _draw_chunk(rows: Distances, along: Tensor, across: Tensor, order: Tensor) -> Tensor:
    """Draw logits for a chunk of rows from normal and chi-squared numbers [S, C] and an order."""
    num_samples, classes = along.shape
    cumulative = log_joint(rows).softmax(1).cumsum(1)
    quantiles = ((order + 0.5) / num_samples).expand(len(rows.squared), -1).contiguous()
    member = torch.searchsorted(cumulative, quantiles).clamp_max(classes - 1)
    moved = one_hot(member.T, classes).bool()
    factor = torch.where(moved, 1 / (1 + rows.spread), 1.0)
    spread = factor * rows.spread
    nearest = factor * rows.squared.sqrt() + spread.sqrt() * along[:, None]
    return rows.shares - 0.5 * (nearest.square() + spread * across[:, None])


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
    shrinkages = SHRINKAGE_GRID if isinstance(config.shrinkage, str) else (config.shrinkage,)
    if not config.needs_held_out:
        return shrinkages[0], float(config.inflation)
    held_out = (
        _folds(train, len(scatter.counts), config.prior_rows)
        if validation is None
        else [HeldOut.of(scatter, config.prior_rows, validation)]
    )
    candidates = [(*_best_inflation(config, held_out, rho), rho) for rho in shrinkages]
    _, inflation, shrinkage = min(candidates)
    return shrinkage, inflation


def _folds(train: Features, num_classes: int, prior_rows: float) -> list[HeldOut]:
    """Hold out every row once, with each class spread over all folds."""
    rows, labels = len(train), train.targets
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

    parts = [(*part.terms(shrinkage), part.labels) for part in held_out]
    total = sum(len(labels) for _, _, labels in parts)

    def score(log_inflation: float) -> float:
        precision = math.exp(-log_inflation)
        losses = [
            cross_entropy(offset - precision * squares, labels, reduction="sum")
            for offset, squares, labels in parts
        ]
        return float(torch.stack(losses).sum()) / total

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


class GVBLLHead(AroundPoint):
    """The head; a `LastLayer`. Before a fit it is the trained softmax layer.

    Attributes:
        gaussian: Means m_c [C, d] and covariance Σ, None before `fit`.
        counts: [C] float64, rows per class.
        inflation: a.
    """

    # Epochs are compared by the softmax layer: ρ and a are chosen once, at the end.
    uses_training_features = False
    counts: Tensor
    inflation: Tensor

    def __init__(self, config: GVBLL, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(config, num_features, num_classes, **options)
        self.gaussian: TiedGaussian | None = None
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("inflation", torch.tensor(math.nan, dtype=torch.float64))

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
        config = self.config
        train = train.double()
        scatter = Scatter.of(train.values, train.targets, len(self.counts), config.prior_rows)
        if choose_prior:
            shrinkage, inflation = choose(config, train, scatter, validation)
        else:
            shrinkage, inflation = config.shrinkage, config.inflation
            shrinkage = scatter.ledoit_wolf if shrinkage == "validation" else shrinkage
            inflation = 1.0 if inflation == "validation" else inflation
        values, floor = scatter.shrunk(shrinkage)
        self.gaussian = TiedGaussian.of(
            scatter.means, scatter.directions, inflation * values, inflation * floor, shrinkage
        )
        self.counts.copy_(scatter.counts)
        self.inflation.fill_(inflation)

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits | SampledLogits:
        """Return draws [S, N, C] and the exact log p(c, φ); before a fit, the softmax logits."""
        if self.gaussian is None:
            return super().predict(rows)
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
        if extra.get("fitted"):
            classes, size = self.weight.shape
            gaussian = TiedGaussian(classes, size, int(extra["rank"]))
            self.gaussian = gaussian.to(self.counts.device)

    def report(self) -> dict[str, float | str]:
        """Return shrinkage and inflation."""
        if self.gaussian is None:
            return {"fitted": "no"}
        return {"shrinkage": float(self.gaussian.shrinkage), "inflation": float(self.inflation)}

    def _distances(self, gaussian: TiedGaussian, rows: Features) -> Distances:
        check_features(rows)
        values = rows.values.double()
        spread = 1 / (self.counts + self.config.prior_rows)
        return Distances(
            gaussian.distances(values), spread, log_shares(self.counts), values.shape[1]
        )
