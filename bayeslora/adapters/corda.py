"""CorDA: two free factors, initialised at context-weighted singular vectors of the weight.

    y = x W0ᵀ + b + s · x (B A − B_0 A_0)ᵀ ,   s = alpha / r
    W0 C̃ = U S Vᵀ ,   V̂ᵀ = Vᵀ C̃⁻¹   so that   U S V̂ᵀ = W0
    B_0 = U_r √(S_r / s) ,   A_0 = √(S_r / s) V̂_rᵀ

C̃ is the damped second moment of the layer's inputs on a context. The first r triples matter most
for the context (`ipm`, instruction-previewed: the context is the task), the last r least (`kpm`,
knowledge-preserved: the context is to be preserved).

C is first divided by the mean of its diagonal. The product of the factors does not depend on the
scale of C, but their balance and thus the training do; in public code that scale depends
accidentally on how activations are divided before they are summed.

`power` p replaces C̃ by C̃ᵖ. The best mean-square approximation of the outputs on the context has
p = ½; p = 0 is PiSSA. Only p = 1 is CorDA.

Source: Yang, Li, Zhou, Song, Wu, Nie and Ghanem 2024, arXiv 2406.05223.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from bayeslora.adapters.factors import Factors, balanced, check_rank
from bayeslora.adapters.stats import SecondMoment
from bayeslora.errors import InputError

logger = logging.getLogger(__name__)

# The authors recommend several tokens per input.
_TOKENS_PER_INPUT = 4
_CONDITION_LIMIT = 1e8
"""Largest condition number of C̃ for inversion in float64."""


def corda(
    weight: Tensor,
    moment: SecondMoment,
    r: int,
    scale: float,
    *,
    mode: str = "ipm",
    power: float = 1.0,
    damping: float = 0.01,
) -> Factors:
    """Return centred factors whose product `s·B·A` is the context's part of a weight.

    Args:
        weight: [out, in], any floating dtype; the computation is in float64.
        moment: Second moment of the layer's inputs on the context.
        r: Rank, at most min(out, in).
        scale: s > 0.
        mode: `ipm` takes the first r triples, `kpm` the last.
        power: p, from 0 to 1.
        damping: λ > 0, relative to the mean of C's diagonal, added to the diagonal; doubled until
            C̃ can be inverted safely.

    Raises:
        InputError: The rank is not between 1 and min(out, in), or the second moment is zero.
    """
    out_features, in_features = weight.shape
    check_rank(out_features, in_features, r)
    values, basis = _damped(moment.matrix.to(weight.device), damping)
    product = (weight.detach().double() @ basis) * values.pow(power) @ basis.mT
    U, S, Vh = torch.linalg.svd(product, full_matrices=False)
    selected = slice(r) if mode == "ipm" else slice(len(S) - r, len(S))
    # In the eigenbasis of C̃ its inverse is a division; no inverse is formed.
    directions = (Vh[selected] @ basis) * values.pow(-power) @ basis.mT
    return balanced(U[:, selected], S[selected], directions, scale)


def _damped(matrix: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues [in] of C̃, ascending, and its eigenvectors [in, in]."""
    mean = matrix.diagonal().mean()
    if not mean > 0:
        raise InputError("the context's inputs of this layer are all zero")
    values, basis = torch.linalg.eigh(matrix.double() / mean)
    values = values.clamp_min(0)
    while values[-1] + damping > _CONDITION_LIMIT * (values[0] + damping):
        damping *= 2
    return values + damping, basis


def warn_of_few(moments: Mapping[str, SecondMoment]) -> None:
    """Log a warning if the context has too few tokens for the inputs of a layer."""
    name, moment = max(moments.items(), key=lambda item: len(item[1].matrix) / item[1].count)
    width = len(moment.matrix)
    if moment.count < _TOKENS_PER_INPUT * width:
        logger.warning(
            "the context has %d tokens for the %d inputs of %s; with fewer than %d the "
            "initialisation is noisy: give a longer context",
            moment.count,
            width,
            name,
            _TOKENS_PER_INPUT * width,
        )
