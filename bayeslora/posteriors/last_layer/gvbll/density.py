"""Formulas of the generative last layer: densities, the published bound, and draws of the means.

    φ | c ~ N(μ_c, Σ),   q(μ_c) = N(m_c, s_c Σ),   s_c = 1 / (n_c + κ),   π_c = (n_c + 1) / (N + C)

    p(c, φ) = π_c N(φ; m_c, (1 + s_c) Σ)

Everything follows from the squared distances D_c = (φ − m_c)ᵀ Σ⁻¹ (φ − m_c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bayeslora.links import antithetic_noise
from bayeslora.runtime import row_slices

# Draws x rows x classes per chunk, 8 MB in float64; a few such arrays are held at once.
_AT_A_TIME = 1 << 20


def log_shares(counts: Tensor) -> Tensor:
    """Return log π [C], with π the posterior mean class shares under a uniform Dirichlet prior."""
    result: Tensor = (counts + 1).log() - math.log(float(counts.sum()) + len(counts))
    return result


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


def label_bound(rows: Distances, labels: Tensor) -> Tensor:
    """Return the lower bound [N] on E_q log p(y | φ, μ) published for G-VBLL.

        log π_y + log N(φ; m_y, Σ) − ½ tr(S_y Σ⁻¹) − log Σ_c π_c N(φ; m_c, Σ + S_c)

    Source: Harrison, Willes and Snoek 2024, arXiv 2404.11599; π is held at its mean.

    Args:
        rows: N rows.
        labels: [N] int64.
    """
    certain = log_joint(replace(rows, spread=torch.zeros_like(rows.spread)))
    expected = certain - 0.5 * rows.size * rows.spread
    return expected.gather(1, labels[:, None])[:, 0] - log_joint(rows).logsumexp(1)


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
    classes = len(rows.spread)
    noise = _noise(num_samples, classes, rows.size, seed, rows.squared)
    parts = [
        _draw_chunk(replace(rows, squared=rows.squared[chunk]), *noise)
        for chunk in row_slices(len(rows.squared), num_samples * classes, _AT_A_TIME)
    ]
    return torch.cat(parts, 1)


def _draw_chunk(rows: Distances, along: Tensor, across: Tensor, order: Tensor) -> Tensor:
    """Draw logits for a chunk of rows."""
    num_samples, classes = along.shape
    cumulative = log_joint(rows).softmax(1).cumsum(1)
    quantiles = ((order + 0.5) / num_samples).expand(len(rows.squared), -1).contiguous()
    member = torch.searchsorted(cumulative, quantiles).clamp_max(classes - 1)
    moved = one_hot(member.T, classes).bool()
    factor = torch.where(moved, 1 / (1 + rows.spread), 1.0)
    spread = factor * rows.spread
    nearest = factor * rows.squared.sqrt() + spread.sqrt() * along[:, None]
    return rows.shares - 0.5 * (nearest.square() + spread * across[:, None])


def _noise(
    num_samples: int, num_classes: int, size: int, seed: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return normal and chi-squared (d − 1) numbers [S, C] each, and a permutation of 0 … S − 1."""
    shape = (num_samples, num_classes)
    along = antithetic_noise(num_samples, (num_classes,), seed, like)
    generator = np.random.default_rng(seed)
    across = generator.chisquare(size - 1, shape) if size > 1 else np.zeros(shape)
    order = generator.permutation(num_samples)
    return along, torch.from_numpy(across).to(like), torch.from_numpy(order).to(like)
