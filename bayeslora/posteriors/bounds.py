"""Lower bounds of the expected log-likelihood E log softmax(z)_y under independent Gaussian logits.

Every function takes the moments z_c ~ N(m_c, v_c) of a batch and returns nats for each row. With
lse the log-sum-exp over classes,

    jensen          m_y − lse(m + v/2)
    knowles_minka   m_y − ½ Σ_c a_c² v_c − lse(m + ½ (1 − 2a) v),   any a in [0, 1]^C
    mc              the average over draws of z_y − lse(z)

a = 0 turns the second into the first. The best a solves a = softmax(m + ½ (1 − 2a) v).

Sources: Knowles and Minka 2011 (Advances in Neural Information Processing Systems 24, section 5.1);
Harrison, Willes and Snoek 2024, arXiv 2404.11599, equation 12 (Jensen).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def jensen(mean: Tensor, variance: Tensor, labels: Tensor) -> Tensor:
    """Return Jensen's bound of each row.

    Args:
        mean: [B, C] logit means.
        variance: [B, C] logit variances.
        labels: [B] int64 class indices.

    Returns:
        [B] nats.
    """
    return tilted(mean, variance, labels, torch.zeros_like(mean))


def knowles_minka(mean: Tensor, variance: Tensor, labels: Tensor) -> Tensor:
    """Return the Knowles-Minka bound of each row, at its detached best tilt.

    The tilt maximises the bound, so its own derivative does not enter the gradient.

    Args:
        mean: [B, C] logit means.
        variance: [B, C] logit variances.
        labels: [B] int64 class indices.

    Returns:
        [B] nats.
    """
    return tilted(mean, variance, labels, best_tilt(mean, variance))


def tilted(mean: Tensor, variance: Tensor, labels: Tensor, tilt: Tensor) -> Tensor:
    """Return the Knowles-Minka bound [B] at a given tilt [B, C]; a tilt of zero is Jensen's."""
    at_label = mean.gather(-1, labels[:, None])[:, 0]
    shifted = mean + 0.5 * (1 - 2 * tilt) * variance
    return at_label - 0.5 * (tilt.square() * variance).sum(-1) - shifted.logsumexp(-1)


@torch.no_grad()
def best_tilt(mean: Tensor, variance: Tensor, *, tolerance: float = 1e-12) -> Tensor:
    """Return the tilt a = softmax(m + ½ (1 − 2a) v) that makes the Knowles-Minka bound tightest.

    Iterating the equation oscillates for large variances, and damping it enough is slow. With λ the
    log-normaliser, log a_c + a_c v_c = m_c + ½ v_c − λ has the explicit solution
    a_c v_c = ω(m_c + ½ v_c − λ + log v_c), ω being the Wright omega function. Σ_c a_c is convex and
    falls in λ, so Newton's method for Σ_c a_c = 1 climbs to the root from the left without a
    safeguard; at λ = max_c (m_c − ½ v_c) one tilt alone is 1.

    Args:
        mean: [B, C] logit means.
        variance: [B, C] logit variances.
        tolerance: Stop when no row's tilts miss a sum of 1 by more than this.
    """
    dtype = mean.dtype
    mean, variance = mean.double(), variance.double()
    target = mean + 0.5 * variance
    normaliser = (mean - 0.5 * variance).amax(-1, keepdim=True)
    tilt = mean
    for _ in range(50):
        reduced = target - normaliser
        product = wright_omega(reduced + variance.log())
        tilt = (reduced - product).exp()
        excess = tilt.sum(-1, keepdim=True) - 1
        if excess.numel() == 0 or excess.abs().max() <= tolerance:
            break
        normaliser = normaliser + excess / (tilt / (1 + product)).sum(-1, keepdim=True)
    return (tilt / tilt.sum(-1, keepdim=True)).to(dtype)


def wright_omega(x: Tensor) -> Tensor:
    """Return ω with ω + log ω = x for real float64 x; zero at −∞.

    A rough start and two steps of the fourth-order iteration of Fritsch, Shafer and Crowley 1973
    (Communications of the ACM 16, algorithm 443) reach rounding error.
    """
    inner = x.clamp(-40, None)
    small = torch.where(
        inner < -2, inner.clamp_max(0).exp(), (2 / 3 * (inner - 1)).clamp_max(1).exp()
    )
    omega = torch.where(inner > 1, inner - inner.clamp_min(1).log(), small)
    for _ in range(2):
        residual = inner - omega - omega.log()
        above = omega + 1
        square = 2 * above * (above + 2 / 3 * residual)
        omega = omega * (1 + residual / above * (square - residual) / (square - 2 * residual))
    return torch.where(x < -40, x.exp(), omega)


def curvature(mean: Tensor, variance: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of a row's bound that a closed-form update needs.

    With q = softmax(m + ½ (1 − 2a) v), the derivative with respect to m_c is 1[y = c] − q_c, and
    with respect to v_c it is −½ w_c with w = a² + (1 − 2a) q = (a − q)² + q (1 − q) ≥ 0. Jensen
    (a = 0) weighs a row by q, Knowles-Minka at its best tilt by q (1 − q).

    Args:
        mean: [N, C] logit means.
        variance: [N, C] logit variances.
        tilt: [N, C].

    Returns:
        q and w, [N, C] each.
    """
    probs = (mean + 0.5 * (1 - 2 * tilt) * variance).softmax(-1)
    return probs, (tilt - probs).square() + probs * (1 - probs)


def monte_carlo(mean: Tensor, variance: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """Return an unbiased estimate of each row's expected log-likelihood.

    Args:
        mean: [B, C] logit means.
        variance: [B, C] logit variances.
        labels: [B] int64 class indices.
        noise: [K, B, C] standard normal draws, as `links.antithetic_noise` makes them.

    Returns:
        [B] nats.
    """
    # The square root has no derivative at zero; the floor is far below any trained variance.
    deviation = variance.clamp_min(1e-12).sqrt()
    normaliser = (mean + deviation * noise).logsumexp(-1).mean(0)
    # E z_y is m_y exactly; only the normaliser needs draws.
    return mean.gather(-1, labels[:, None])[:, 0] - normaliser


def gauss_hermite(mean: Tensor, variance: Tensor, labels: Tensor, num_nodes: int = 64) -> Tensor:
    """Return the expected log-likelihood of each row of a two-class problem by quadrature.

    Two logits enter through their difference alone, which is Gaussian.

    Args:
        mean: [B, 2] logit means.
        variance: [B, 2] logit variances.
        labels: [B] int64, 0 or 1.
        num_nodes: Gauss-Hermite nodes.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    sign = 2.0 * labels - 1
    centre = sign * (mean[:, 1] - mean[:, 0])
    points = centre[:, None] + variance.sum(-1).sqrt()[:, None] * torch.from_numpy(nodes).to(mean)
    values = torch.nn.functional.logsigmoid(points)
    return values @ torch.from_numpy(weights / math.sqrt(2 * math.pi)).to(mean)


CLOSED_FORM = {"jensen": jensen, "knowles_minka": knowles_minka}
