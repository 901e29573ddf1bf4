"""LoRA: two free factors of a low-rank change.

Source: Hu et al. 2021, arXiv 2106.09685; √r: Kalajdzievski 2023, arXiv 2312.03732.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from bayeslora.adapters.base import Layers, LowRankAdapter
from bayeslora.adapters.low_rank import Factors, check_rank
from bayeslora.option_checks import BelowOne, Count, NotNegative, Positive, Texts


@dataclass(frozen=True)
class LoRA(LowRankAdapter):
    """Two free factors of a low-rank change.

        y = x Wᵀ + b + s · x (B A)ᵀ ,   s = alpha / r, or alpha / √r

    The second factor, B, starts at zero.
    """

    name: ClassVar[str] = "lora"
    has_dropout: ClassVar[bool] = True
    is_free: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "low-rank change of frozen weights with two free factors; use_rslora=true for large r"
    )
    use: ClassVar[str] = (
        "The baseline. Exchange with PEFT, MC dropout, and posteriors over two factors."
    )
    source: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685"
    default_lr: ClassVar[float] = 3e-3

    r: Count = 8
    alpha: Positive = 16.0
    """The change is multiplied by `alpha / r`."""
    dropout: BelowOne = 0.0
    target_modules: Texts | None = None
    num_layers: Layers = "auto"
    lr: Positive | None = None
    """Learning rate of AdamW on both factors; None means {default_lr}."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of both factors."""
    use_rslora: bool = False
    """Whether the change is multiplied by `alpha / √r` instead, so that the step size does not
    shrink with the rank (Kalajdzievski 2023, arXiv 2312.03732)."""

    @property
    def scale(self) -> float:
        """The factor s in front of the change."""
        return self.alpha / (self.r**0.5 if self.use_rslora else self.r)

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return a random first factor and a zero second factor."""
        out_features, in_features = weight.shape
        return kaiming_zero(out_features, in_features, self.r, generator)


def kaiming_zero(out_features: int, in_features: int, r: int, generator: Generator) -> Factors:
    """Return LoRA's initial factors: `A` uniform on ±1/√in, `B` zero.

    Source: Hu et al. 2021, arXiv:2106.09685.

    Args:
        out_features: Number of outputs of the adapted layer.
        in_features: Number of its inputs.
        r: Rank, at most min(out, in).
        generator: Source of randomness, on the CPU.

    Raises:
        InputError: The rank is not between 1 and min(out, in).
    """
    check_rank(out_features, in_features, r)
    A = (2 * torch.rand(r, in_features, generator=generator) - 1) / in_features**0.5
    return Factors(A, torch.zeros(out_features, r), None, orthonormal=False)
