"""PiSSA: initialisation at the principal singular vectors of the pretrained weight.

    y = x W0ᵀ + b + s · x (B A − B_0 A_0)ᵀ ,   s = alpha / r
    U, S, Vᵀ = svd(W0) ;   B_0 = U_r √(S_r / s) ;   A_0 = √(S_r / s) V_rᵀ

so that `s·B_0·A_0` is the best rank-r approximation of W0. The paper trains A and B around the
residual `W0 − s·B_0·A_0`; here the layer keeps W0 and subtracts `s·B_0·A_0` in the forward pass,
which is the same function. W0 is then never rounded again, several adapters can share it, and the
initial change is exactly zero.

Source: Meng, Wang and Zhang 2024, arXiv 2404.02948; the randomised decomposition: Halko,
Martinsson and Tropp 2011, arXiv 0909.4061.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Generator, Tensor

from bayeslora.adapters.base import Layers, LowRankAdapter
from bayeslora.adapters.low_rank import Factors, balanced, check_rank
from bayeslora.option_checks import Count, NotNegative, Positive, Texts
from bayeslora.runtime import restored_random_state


@dataclass(frozen=True)
class PiSSA(LowRankAdapter):
    """Two free factors that start at the principal singular vectors of the weight."""

    name: ClassVar[str] = "pissa"
    from_weight: ClassVar[bool] = True
    summary: ClassVar[str] = "two free factors that start at the weight's largest singular vectors"
    use: ClassVar[str] = "Few training steps, in which LoRA stays close to its zero start."
    source: ClassVar[str] = "Meng, Wang & Zhang 2024, arXiv 2404.02948"
    parameters: ClassVar[str] = "r (in + out) per layer"
    default_lr: ClassVar[float] = 1e-3

    r: Count = 16
    """Rank of the trained subspace; the change has rank 2r at most."""
    alpha: Positive | None = None
    niter: Annotated[int, Interval(ge=0, le=1000)] | None = None
    """Power iterations of a randomised singular value decomposition; a few are enough. None means
    the exact decomposition, which takes under a second for a layer of a small model."""
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on both factors; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of both factors towards their initial values."""

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return the factors of the principal part of the weight."""
        return pissa(weight, self.r, self.scale, generator, self.niter)


# Directions beyond the requested r, so that a few iterations separate the r well.
_OVERSAMPLING = 8


def pissa(
    weight: Tensor, r: int, scale: float, generator: Generator, niter: int | None = None
) -> Factors:
    """Return centred factors whose product `s·B·A` is the principal part of a weight.

    Args:
        weight: [out, in], any floating dtype; the computation is in float64.
        r: Rank, at most min(out, in).
        scale: s > 0.
        generator: Source of randomness, on the CPU; unused if `niter` is None.
        niter: Power iterations of a randomised decomposition; None means the exact decomposition.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    out_features, in_features = weight.shape
    check_rank(out_features, in_features, r)
    matrix = weight.detach().double()
    if niter is None:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        U, S, Vh = _randomised_svd(matrix, r, niter, generator)
    return balanced(U[:, :r], S[:r], Vh[:r], scale)


def _randomised_svd(
    matrix: Tensor, r: int, niter: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return approximate U, S and Vᵀ of the r largest singular values and a few more."""
    seed = int(torch.randint(2**62, (), generator=generator))
    width = min(r + _OVERSAMPLING, *matrix.shape)
    # On the CPU, where a seed is reproducible on every machine; the products are thin.
    with restored_random_state():
        torch.manual_seed(seed)
        U, S, V = torch.svd_lowrank(matrix.cpu(), q=width, niter=niter)
    return U.to(matrix.device), S.to(matrix.device), V.mT.to(matrix.device)
