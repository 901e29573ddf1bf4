"""Lower bounds of the expected log-likelihood E log softmax(z)_y under Gaussian logits.

Every function takes the moments z ~ N(m, V) of a batch and returns nats for each row. V is [B, C]
where the logits of a row are independent (its diagonal v), else [B, C, C]. With lse the log-sum-exp
over classes,

    jensen          m_y − lse(m + v/2)
    tilted          m_y − ½ aᵀVa − lse(m + ½ v − V a),   any a
    knowles_minka   the same for independent logits: V a is then a v, element by element
    gauss_hermite   the expectation itself, by quadrature, for two classes
    mc              the average over draws of z_y − lse(z)

The identity lse(z) = aᵀz + lse(z − (aᵀz) 1) with Jensen's inequality on its last term gives the
tilted bound; a = 0 turns it into Jensen's, and the best a solves a = softmax(m + ½ v − V a). It is
the only one in closed form whose value depends on the covariance between classes.

Sources: Knowles and Minka 2011 (Advances in Neural Information Processing Systems 24, section 5.1);
Harrison, Willes and Snoek 2024, arXiv 2404.11599, equation 12 (Jensen). The tilted bound for a full
V follows by the same two steps as theirs for a diagonal one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.tilts import best_tilt

NUM_NODES = 64


def jensen(mean: Tensor, covariance: Tensor, labels: Tensor) -> Tensor:
    """Return Jensen's bound of each row.

    Args:
        mean: [B, C] logit means.
        covariance: [B, C] logit variances, or [B, C, C].
        labels: [B] int64 class indices.

    Returns:
        [B] nats.
    """
    return tilted(mean, covariance, labels, torch.zeros_like(mean))


def best_tilted(mean: Tensor, covariance: Tensor, labels: Tensor) -> Tensor:
    """Return the tilted bound of each row at its detached best tilt; arguments as for `jensen`.

    The tilt maximises the bound, so its own derivative does not enter the gradient.
    """
    return tilted(mean, covariance, labels, best_tilt(mean.detach(), covariance.detach()))


def tilted(mean: Tensor, covariance: Tensor, labels: Tensor, tilt: Tensor) -> Tensor:
    """Return the tilted bound [B] at a given tilt [B, C]."""
    shift, cost = tilt_terms(covariance, tilt)
    return _at_label(mean, labels) - cost - (mean + shift).logsumexp(-1)


def tilt_terms(covariance: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
    """Return ½ v − V a, [B, C], and ½ aᵀVa, [B]."""
    if covariance.ndim == 2:
        moved, variance = covariance * tilt, covariance
    else:
        moved = (covariance @ tilt[..., None])[..., 0]
        variance = covariance.diagonal(dim1=-2, dim2=-1)
    return 0.5 * variance - moved, 0.5 * (tilt * moved).sum(-1)


def curvature(mean: Tensor, covariance: Tensor, tilt: Tensor) -> Tensor:
    """Return W with ∂ bound / ∂V = −½ W: [N, C] where the logits are independent, else [N, C, C].

    With q = softmax(m + ½ v − V a), W = E_q (e − a)(e − a)ᵀ over unit vectors e, which has no
    negative eigenvalue; its diagonal is (a − q)² + q (1 − q). Jensen (a = 0) weighs a row by q, the
    best tilt by q (1 − q), or by diag q − q qᵀ. ∂ bound / ∂m is 1[y = c] − q_c.

    Args:
        mean: [N, C] logit means.
        covariance: [N, C] logit variances, or [N, C, C].
        tilt: [N, C].
    """
    probs = (mean + tilt_terms(covariance, tilt)[0]).softmax(-1)
    if covariance.ndim == 2:
        return (tilt - probs).square() + probs * (1 - probs)
    gap = tilt - probs
    spread = torch.diag_embed(probs) - probs[..., :, None] * probs[..., None, :]
    return spread + gap[..., :, None] * gap[..., None, :]


def monte_carlo(mean: Tensor, covariance: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """Return an unbiased estimate of each row's expected log-likelihood.

    Args:
        mean: [B, C] logit means.
        covariance: [B, C] logit variances, or [B, C, C].
        labels: [B] int64 class indices.
        noise: [K, B, C] standard normal draws, as `links.antithetic_noise` makes them.

    Returns:
        [B] nats.
    """
    if covariance.ndim == 2:
        # The square root has no derivative at zero; the floor is far below any trained variance.
        moved = covariance.clamp_min(1e-12).sqrt() * noise
    else:
        moved = torch.einsum("bij,kbj->kbi", GaussianLogits(mean, covariance).root(), noise)
    # E z_y is m_y exactly; only the normaliser needs draws.
    return _at_label(mean, labels) - (mean + moved).logsumexp(-1).mean(0)


def gauss_hermite(
    mean: Tensor, covariance: Tensor, labels: Tensor, num_nodes: int = NUM_NODES
) -> Tensor:
    """Return the expected log-likelihood of each row of a two-class problem by quadrature.

    Two logits enter through their difference alone, which is Gaussian.

    Args:
        mean: [B, 2] logit means.
        covariance: [B, 2] logit variances, or [B, 2, 2].
        labels: [B] int64, 0 or 1.
        num_nodes: Gauss-Hermite nodes.

    Raises:
        InputError: There are not two classes.
    """
    points, shares = difference_points(mean, covariance, num_nodes)
    return torch.nn.functional.logsigmoid((2.0 * labels - 1)[:, None] * points) @ shares


def difference_points(
    mean: Tensor, covariance: Tensor, num_nodes: int = NUM_NODES
) -> tuple[Tensor, Tensor]:
    """Return points [B, K] of z_1 − z_0 and their shares [K], by Gauss-Hermite quadrature.

    Raises:
        InputError: There are not two classes.
    """
    if mean.shape[-1] != 2:
        raise InputError(f"bound 'gauss_hermite' is for two classes, not {mean.shape[-1]}")
    if covariance.ndim == 2:
        variance = covariance.sum(-1)
    else:
        variance = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) - 2 * covariance[:, 0, 1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    # The square root has no derivative at zero.
    deviation = variance.clamp_min(1e-12).sqrt()
    points = (mean[:, 1] - mean[:, 0])[:, None] + deviation[:, None] * torch.from_numpy(nodes).to(
        mean
    )
    return points, torch.from_numpy(weights / math.sqrt(2 * math.pi)).to(mean)


def _at_label(mean: Tensor, labels: Tensor) -> Tensor:
    return mean.gather(-1, labels[:, None])[:, 0]


CLOSED_FORM = {
    "gauss_hermite": gauss_hermite,
    "jensen": jensen,
    "knowles_minka": best_tilted,
    "tilted": best_tilted,
}
