"""Lower bounds of the expected log-likelihood E log softmax(z)_y under Gaussian logits.

Every function takes the moments z ~ N(m, V) of a batch and returns nats for each row. V is [B, C]
(its diagonal v) if the logits of a row are independent, else [B, C, C]. With lse the log-sum-exp
over classes,

    jensen          m_y − lse(m + ½ v)
    knowles_minka   m_y − ½ aᵀVa − lse(m + ½ v − V a),   the best a

The identity lse(z) = aᵀz + lse(z − (aᵀz) 1) with Jensen's inequality on its last term gives a bound
for any tilt a: z_c − aᵀz has the mean m_c − aᵀm and the variance v_c − 2 (V a)_c + aᵀVa, and aᵀm
cancels. a = 0 yields Jensen's bound; the best a solves a = softmax(m + ½ v − V a), and gives for
independent logits, where V a = v a elementwise, the bound of Knowles and Minka.

For fixed logit covariances and tilts both are, as a function of the means,

    m_y − lse(m + h) + constant,   h = ½ v − V a

and their derivative with respect to a row's covariance is −½ W, see `curvature`.

Sources: Knowles and Minka 2011 (Advances in Neural Information Processing Systems 24, section 5.1);
Harrison, Willes and Snoek 2024, arXiv 2404.11599, equation 12 (Jensen). The bound for a full V
follows by the same two steps as for a diagonal one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayeslora.links import at_label


def tilt_terms(covariance: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
    """Return ½ v − V a, [B, C], and ½ aᵀVa, [B]."""
    if covariance.ndim == 2:
        product, variance = covariance * tilt, covariance
    else:
        product = (covariance @ tilt[..., None])[..., 0]
        variance = covariance.diagonal(dim1=-2, dim2=-1)
    return 0.5 * variance - product, 0.5 * (tilt * product).sum(-1)


def jensen(mean: Tensor, covariance: Tensor, labels: Tensor) -> Tensor:
    """Return Jensen's bound [B], in nats.

    Args:
        mean: [B, C] logit means.
        covariance: [B, C] logit variances, or [B, C, C].
        labels: [B] int64 class indices, or [B, C] shares of the classes.
    """
    return tilted(mean, covariance, labels, torch.zeros_like(mean))


def tilted(mean: Tensor, covariance: Tensor, labels: Tensor, tilt: Tensor) -> Tensor:
    """Return the bound [B] at a tilt [B, C]."""
    shift, cost = tilt_terms(covariance, tilt)
    return at_label(mean, labels) - cost - (mean + shift).logsumexp(-1)


def curvature(mean: Tensor, covariance: Tensor, tilt: Tensor) -> Tensor:
    """Return W with ∂ bound / ∂V = −½ W: [N, C] if the logits are independent, else [N, C, C].

    With q = softmax(m + ½ v − V a), W = E_q (e − a)(e − a)ᵀ over unit vectors e, which is positive
    semi-definite; its diagonal is (a − q)² + q (1 − q). Jensen (a = 0) weighs a row by q, the best
    tilt by q (1 − q), or by diag q − q qᵀ. ∂ bound / ∂m is 1[y = c] − q_c.

    Args:
        mean: [N, C] logit means.
        covariance: [N, C] logit variances, or [N, C, C].
        tilt: [N, C].
    """
    probs = (mean + tilt_terms(covariance, tilt)[0]).softmax(-1)
    if covariance.ndim == 2:
        return (tilt - probs).square() + probs * (1 - probs)
    gap = tilt - probs
    jacobian = torch.diag_embed(probs) - probs[..., :, None] * probs[..., None, :]
    return jacobian + gap[..., :, None] * gap[..., None, :]


@torch.no_grad()
def best_tilt(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the tilt a = softmax(m + ½ v − V a) of each row, [B, C], of the tightest bound.

    Args:
        mean: [B, C] logit means.
        covariance: [B, C] logit variances if logits are independent, else [B, C, C].
    """
    double = (mean.double(), covariance.double())
    tilt = _independent(*double) if covariance.ndim == 2 else _correlated(*double)
    return tilt.to(mean.dtype)


def _independent(mean: Tensor, variance: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Solve a = softmax(m + ½ (1 − 2a) v).

    Fixed-point iteration oscillates for large variances, and sufficient damping is slow. With λ the
    log-normaliser, log a_c + a_c v_c = m_c + ½ v_c − λ has the explicit solution
    a_c v_c = ω(m_c + ½ v_c − λ + log v_c), with ω the Wright omega function. Σ_c a_c is convex and
    decreasing in λ, so Newton's method for Σ_c a_c = 1 climbs to the root from the left without a
    safeguard; since log a_c ≥ m_c − ½ v_c − λ for a_c ≤ 1, it starts at λ = lse(m − ½ v). It stops
    when the tilts of every row sum to 1 within `tolerance`.
    """
    target = mean + 0.5 * variance
    normaliser = (mean - 0.5 * variance).logsumexp(-1, keepdim=True)
    tilt = mean  # replaced in the first round
    for _ in range(50):
        reduced = target - normaliser
        product = wright_omega(reduced + variance.log())
        tilt = (reduced - product).exp()
        excess = tilt.sum(-1, keepdim=True) - 1
        if excess.numel() == 0 or excess.abs().max() <= tolerance:
            break
        normaliser = normaliser + excess / (tilt / (1 + product)).sum(-1, keepdim=True)
    return tilt / tilt.sum(-1, keepdim=True)


# Share of the gain that the slope predicts; below 0.5, the gain of a Newton step on a quadratic.
_LEAST_GAIN = 0.3


def _correlated(mean: Tensor, covariance: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Minimise the convex ½ aᵀVa + lse(m + ½ v − V a) by Newton's method with halved steps.

    Its gradient is V (a − q) with q the softmax at a, and its Hessian V + V (diag q − qqᵀ) V, so
    Newton's step solves (I + (diag q − qqᵀ) V) δ = q − a. A step that gains less than a share of
    the gain that its slope predicts is halved: otherwise rows of large variance alternate between
    two corners. It stops when a and q agree within `tolerance` in every row.
    """
    raised = mean + 0.5 * covariance.diagonal(dim1=-2, dim2=-1)
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)

    def evaluate(tilt: Tensor) -> tuple[Tensor, Tensor]:
        product = (covariance @ tilt[..., None])[..., 0]
        value = 0.5 * (tilt * product).sum(-1) + (raised - product).logsumexp(-1)
        return value, (raised - product).softmax(-1)

    tilt = mean.softmax(-1)
    value, probs = evaluate(tilt)
    for _ in range(50):
        if tilt.numel() == 0 or (probs - tilt).abs().max() <= tolerance:
            break
        jacobian = torch.diag_embed(probs) - probs[..., :, None] * probs[..., None, :]
        step = torch.linalg.solve(eye + jacobian @ covariance, (probs - tilt)[..., None])[..., 0]
        slope = ((tilt - probs) * (covariance @ step[..., None])[..., 0]).sum(-1)
        share = torch.ones_like(value)
        for _ in range(30):
            moved_value, moved_probs = evaluate(tilt + share[:, None] * step)
            promised = value + _LEAST_GAIN * share * slope
            worse = moved_value > promised + 1e-12 * value.abs()
            if not worse.any():
                break
            share = torch.where(worse, share / 2, share)
        tilt = tilt + share[:, None] * step
        value, probs = moved_value, moved_probs
    return tilt


def wright_omega(x: Tensor) -> Tensor:
    """Return ω with ω + log ω = x for real float64 x; zero at −∞.

    A rough initial value and two steps of the fourth-order iteration of Fritsch, Shafer and Crowley
    1973 (Communications of the ACM 16, algorithm 443) reach rounding error.
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
