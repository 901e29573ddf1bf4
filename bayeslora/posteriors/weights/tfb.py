"""TFB, training-free Bayesianisation: the widest harmless noise on a trained adapter.

    B Θ = U diag(d) Vᵀ,   B' = U diag(d),   A' = Vᵀ A          (the same ΔW = s B' A')
    A'_ij ~ N(A'_ij, (σ / (s d_i))²)   ⇒   ΔW + σ U E,   E_ij ~ N(0, 1)

Each column of ΔW then has covariance σ² U Uᵀ. σ is the largest in a range for which the NLL of
some training rows, the anchors, rises by no more than a tolerance. It is the standard
deviation of ΔW itself: the factor s is divided out, unlike in the published code.

An iLoRA site is rotated expert by expert: a rotation that mixes them would not commute with the
gate.

A PoLAR site remains one: U and A' = Vᵀ Yᵀ are orthonormal, and diag(d) is the new core.

Source: Shi, Wang, Han, Zhang and Wang 2024, arXiv 2412.05723.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bayeslora.adapters.low_rank import LowRank
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.errors import InputError
from bayeslora.links import nll
from bayeslora.option_checks import Count, Draws, Positive
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.types import FinalFit, Network, WeightPosterior
from bayeslora.posteriors.weights.draws import replaced, sampled_logits, standard_normal


@dataclass(frozen=True)
class TFB(Posterior):
    """Training-free: the widest isotropic noise on a trained adapter that a tolerance allows."""

    tolerance: Positive = 0.003
    """Allowed rise of the NLL on the anchor rows, relative to its value for the mean weights."""
    num_anchors: Count = 500
    """Maximum number of training rows in the search."""
    sigma_min: Positive = 1e-3
    """Smallest standard deviation of the search."""
    sigma_max: Positive = 0.5
    """Largest standard deviation of the search. Both are of the change ΔW itself, including the
    factor alpha / r, along each of its r output directions."""
    num_steps: Count = 6
    """Bisections of the interval between the two, on a logarithmic scale."""
    num_search_samples: Count = 10
    """Draws for each σ of the search, with the same noise for all σ."""
    num_samples: Draws = 10

    name: ClassVar[str] = "tfb"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.tfb:TFBWeights.of"
    over_trained: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "Gaussian noise on a trained adapter, within a limit on the training loss"
    )
    use: ClassVar[str] = "Uncertainty for a finished adapter, without training or gradients."
    source: ClassVar[str] = "Shi et al. 2024, arXiv 2412.05723"
    passes: ClassVar[str] = "num_samples"
    over_factors: ClassVar[bool] = True


logger = logging.getLogger(__name__)

# Accuracy of the singular values of float32 factors, relative to the largest.
_LEAST_RATIO = 1e-6


class TFBWeights(WeightPosterior):
    """One standard deviation for the noise on all adapters.

    Attributes:
        sigma: σ, float64; 0 before the fit.
    """

    sigma: Tensor

    def __init__(self, config: TFB, sites: Sequence[LowRank], seed: int = 0) -> None:
        """Start without noise on the adapters `sites`, which are not registered as submodules."""
        super().__init__()
        self._config = config
        self._sites = tuple(sites)
        self.register_buffer("sigma", torch.zeros((), dtype=torch.float64))

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Search for the widest noise that is tolerated on anchors, some of the training rows.

        Raises:
            InputError: An adapter's factors are rank deficient.
        """
        config, (texts, labels) = self._config, fit.train
        # The mean's pass, the upper end of the search, and its steps.
        passes = 1 + config.num_search_samples * (1 + config.num_steps)
        total = passes * min(config.num_anchors, len(labels))
        with fit.open_bar("search for sigma", total) as advance:
            degradation = degradation_on_anchors(
                config, fit.network, self, texts, labels, seed=fit.seed, advance=advance
            )
            self.fit(config, degradation)
        return True

    def fit(self, config: TFB, degradation: Callable[[], float]) -> None:
        """Rotate the factors to their singular directions and choose σ.

        Args:
            config: Range and tolerance.
            degradation: Returns the relative rise of the NLL under draws with the current σ,
                compared with the mean.

        Raises:
            InputError: A site's `B·core` is rank deficient.
        """
        rotated = [turned(site) for site in self._sites]
        for site, factors in zip(self._sites, rotated, strict=True):
            set_factors(site, factors)

        def accepts(sigma: float) -> bool:
            self.sigma.fill_(sigma)
            return degradation() <= config.tolerance

        self.sigma.fill_(
            largest_accepted(accepts, config.sigma_min, config.sigma_max, config.num_steps)
        )

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Set the factors `A` to one draw within the context, then restore the mean."""
        factors = [site.A.get_parameter("weight") for site in self._sites]
        values = [
            factor.detach() + self._scales(site) * standard_normal(factor, generator)
            for site, factor in zip(self._sites, factors, strict=True)
        ]
        with replaced(factors, values):
            yield

    def report(self) -> dict[str, float | str]:
        """Return σ."""
        return {"sigma": float(self.sigma)}

    @torch.no_grad()
    def _scales(self, site: LowRank) -> Tensor:
        """Return σ / (s d) as a column [r, 1]; d are the column norms of the rotated `B·core`."""
        norms = site.factors()[1].norm(dim=0)
        sigma = float(self.sigma)
        scales: Tensor = (sigma / (site.scale * norms))[:, None] if sigma else norms[:, None] * 0
        return scales


@torch.no_grad()
def turned(site: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """Return factors with the same ΔW: U [out, r], d [r] and the new first factor [r, in], float64.

    If a gate treats parts of the rank separately, each part is rotated by itself.

    Raises:
        InputError: `B·core` is rank deficient, so noise in some direction would be infinite.
    """
    A, B = (factor.detach().double() for factor in site.factors())
    blocks = zip(A.chunk(site.num_blocks), B.chunk(site.num_blocks, 1), strict=True)
    parts = []
    for first, second in blocks:
        U, d, Vh = torch.linalg.svd(second, full_matrices=False)
        if not d[-1] > _LEAST_RATIO * d[0]:
            raise InputError(
                f"posterior 'tfb' needs adapters of full rank, but the factor of {site.name} has "
                f"singular values from {float(d[0]):.3g} down to {float(d[-1]):.3g}; choose a "
                "smaller r, or train for longer"
            )
        parts.append((U, d, Vh @ first))
    all_U, all_d, all_A = zip(*parts, strict=True)
    return torch.cat(all_U, 1), torch.cat(all_d), torch.cat(all_A)


@torch.no_grad()
def set_factors(site: LowRank, factors: tuple[Tensor, Tensor, Tensor]) -> None:
    """Set the factors of a site to what `turned` returns."""
    U, d, A = factors
    site.A.weight.copy_(A)
    site.B.weight.copy_(U * d if site.core is None else U)
    if site.core is not None:
        site.core.weight.copy_(torch.diag(d))


def largest_accepted(
    accepts: Callable[[float], bool], low: float, high: float, num_steps: int
) -> float:
    """Return the largest accepted σ by bisection of log σ; 0 if none is accepted.

    Args:
        accepts: Whether a σ is small enough; should be monotone.
        low: Lower end of the search, tried last if no other σ was accepted.
        high: Upper end, tried first.
        num_steps: Number of bisections.
    """
    if accepts(high):
        logger.warning("posterior 'tfb': even the largest value, sigma_max=%g, is accepted", high)
        return high
    best, bottom = 0.0, low
    for _ in range(num_steps):
        middle = (bottom * high) ** 0.5
        if accepts(middle):
            best = bottom = middle
        else:
            high = middle
    if best or accepts(low):
        return best or low
    logger.warning(
        "posterior 'tfb': even the smallest value, sigma_min=%g, is rejected, so all draws equal "
        "the mean weights",
        low,
    )
    return 0.0


def degradation_on_anchors(
    config: TFB,
    network: Network,
    weights: WeightPosterior,
    texts: PreparedTexts,
    labels: Tensor,
    *,
    seed: int,
    advance: Callable[[int], object] = lambda _: None,
) -> Callable[[], float]:
    """Return a function that measures the relative rise of the NLL under weight draws.

    Args:
        config: Numbers of anchors and draws.
        network: Trained, with the mean weights.
        weights: Posterior to draw from, with the same noise each time.
        texts: The training texts.
        labels: [N] int64.
        seed: Seed of the choice of rows and of the noise.
        advance: Called with the number of texts after each batch of a pass.
    """
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(texts), generator=generator)[: config.num_anchors].tolist()

    def probs(num_samples: int) -> Tensor:
        logits = sampled_logits(
            network, weights, texts, num_samples, seed=seed, rows=rows, advance=advance
        )
        return logits.samples.softmax(-1).mean(0)

    mean = probs(0)
    truth = labels[rows].to(mean.device)
    baseline = nll(mean, truth)

    def degradation() -> float:
        score = nll(probs(config.num_search_samples), truth)
        if score <= baseline:
            return 0.0
        return (score - baseline) / baseline if baseline > 0 else math.inf

    return degradation
