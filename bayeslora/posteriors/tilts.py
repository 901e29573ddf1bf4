"""The tilt that makes the tilted bound of a row as tight as it can be.

The bound and its equation are in `bounds.py`; any tilt gives a valid bound, so a search that stops
early only loosens it.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of what the slope promises; below 0.5, which a Newton step on a quadratic function gains.
_LEAST_GAIN = 0.3


@torch.no_grad()
def best_tilt(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the tilt a = softmax(m + ½ v − V a) of each row, [B, C], of the tightest bound.

    Args:
        mean: [B, C] logit means.
        covariance: [B, C] logit variances where logits are independent, else [B, C, C].
    """
    double = (mean.double(), covariance.double())
    tilt = _independent(*double) if covariance.ndim == 2 else _correlated(*double)
    return tilt.to(mean.dtype)


def _independent(mean: Tensor, variance: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Solve a = softmax(m + ½ (1 − 2a) v).

    Iterating the equation oscillates for large variances, and damping it enough is slow. With λ the
    log-normaliser, log a_c + a_c v_c = m_c + ½ v_c − λ has the explicit solution
    a_c v_c = ω(m_c + ½ v_c − λ + log v_c), ω being the Wright omega function. Σ_c a_c is convex and
    falls in λ, so Newton's method for Σ_c a_c = 1 climbs to the root from the left without a
    safeguard; at λ = max_c (m_c − ½ v_c) one tilt alone is 1.
    It stops when no row's tilts miss a sum of 1 by more than `tolerance`.
    """
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
    return tilt / tilt.sum(-1, keepdim=True)


def _correlated(mean: Tensor, covariance: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Minimise the convex ½ aᵀVa + lse(m + ½ v − V a) by Newton's method with halved steps.

    Its gradient is V (a − q) with q the softmax at a, and its Hessian V + V (diag q − qqᵀ) V, so
    Newton's step solves (I + (diag q − qqᵀ) V) δ = q − a. A step that gains less than a share of
    what its slope promises is halved: without that condition rows of large variance jump to and fro
    between two corners. It stops when no row's a misses its q by more than `tolerance`.
    """
    start = mean + 0.5 * covariance.diagonal(dim1=-2, dim2=-1)
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)

    def at(tilt: Tensor) -> tuple[Tensor, Tensor]:
        moved = (covariance @ tilt[..., None])[..., 0]
        value = 0.5 * (tilt * moved).sum(-1) + (start - moved).logsumexp(-1)
        return value, (start - moved).softmax(-1)

    tilt = mean.softmax(-1)
    value, probs = at(tilt)
    for _ in range(50):
        if tilt.numel() == 0 or (probs - tilt).abs().max() <= tolerance:
            break
        spread = torch.diag_embed(probs) - probs[..., :, None] * probs[..., None, :]
        step = torch.linalg.solve(eye + spread @ covariance, (probs - tilt)[..., None])[..., 0]
        slope = ((tilt - probs) * (covariance @ step[..., None])[..., 0]).sum(-1)
        share = torch.ones_like(value)
        for _ in range(30):
            moved_value, moved_probs = at(tilt + share[:, None] * step)
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
