"""PiSSA: initialisation at the principal singular vectors of the pretrained weight.

    y = x W0ᵀ + b + s · x (B A − B_0 A_0)ᵀ ,   s = alpha / r
    U, S, Vᵀ = svd(W0) ;   B_0 = U_r √(S_r / s) ;   A_0 = √(S_r / s) V_rᵀ

so that `s·B_0·A_0` is the best rank-r approximation of W0. The paper trains A and B around the
residual `W0 − s·B_0·A_0`; here the layer keeps W0 and subtracts `s·B_0·A_0` in the forward pass,
which is the same function. W0 is then never rounded again, several adapters can share it, and the
initial change is exactly zero.

Source: Meng, Wang and Zhang 2024, arXiv 2404.02948.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from bayeslora.adapters.base import Layers, LowRankAdapter
from bayeslora.adapters.low_rank import Factors, balanced, check_rank
from bayeslora.option_checks import Count, NotNegative, Positive, Texts


@dataclass(frozen=True)
class PiSSA(LowRankAdapter):
    """Two free factors that start at the principal singular vectors of the weight."""

    name: ClassVar[str] = "pissa"
    from_weight: ClassVar[bool] = True
    summary: ClassVar[str] = "two free factors that start at the weight's largest singular vectors"
    use: ClassVar[str] = "Few training steps, in which LoRA stays close to its zero start."
    source: ClassVar[str] = "Meng, Wang & Zhang 2024, arXiv 2404.02948"
    default_lr: ClassVar[float] = 1e-3

    r: Count = 16
    """Rank of the trained subspace; the change has rank 2r at most."""
    alpha: Positive | None = None
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on both factors; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of both factors towards their initial values."""

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return the factors of the principal part of the weight."""
        return pissa(weight, self.r, self.scale)


def pissa(weight: Tensor, r: int, scale: float) -> Factors:
    """Return centred factors whose product `s·B·A` is the principal part of a weight.

    Args:
        weight: [out, in], any floating dtype; the computation is in float64.
        r: Rank, at most min(out, in).
        scale: s > 0.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    out_features, in_features = weight.shape
    check_rank(out_features, in_features, r)
    U, S, Vh = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return balanced(U[:, :r], S[:r], Vh[:r], scale)
