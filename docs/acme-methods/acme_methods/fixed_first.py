"""LoRA with a fixed first factor: a frozen linear layer plus s·B·A, of which B alone is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.base import Adapter, Layers
from bayeslora.adapters.low_rank import check_rank
from bayeslora.adapters.site import Site, trained_layer
from bayeslora.option_checks import Count, NotNegative, Positive, Texts


@dataclass(frozen=True)
class FixedFirst(Adapter):
    """LoRA of which the second factor alone is trained."""

    r: Count = 8
    """Rank of the change of every adapted weight."""
    alpha: Positive = 16.0
    """The change is multiplied by `alpha / r`."""
    target_modules: Texts | None = None  # the meaning is that of `Adapter`, also of the next two
    num_layers: Layers = 6
    lr: Positive | None = None
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of the second factor."""

    name: ClassVar[str] = "fixed_first"
    summary: ClassVar[str] = "LoRA whose first factor is random, orthonormal and fixed"
    source: ClassVar[str] = "Zhang et al. 2023, arXiv 2308.03303"
    default_lr: ClassVar[float] = 3e-3

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: torch.Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return an adapted layer for each linear layer."""
        scale = self.alpha / self.r
        return [
            FixedFirstSite(name, host, self.r, scale, generator) for name, host in hosts.items()
        ]


class FixedFirstSite(Site):
    """The layer; `A` [r, in] has orthonormal rows, `B` [out, r] starts at zero."""

    A: Tensor

    def __init__(
        self, name: str, host: nn.Linear, r: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__(name, host, scale)
        check_rank(self.out_features, self.in_features, r)
        device = host.weight.device
        Q = torch.linalg.qr(torch.randn(self.in_features, r, generator=generator)).Q
        self.register_buffer("A", Q.T.contiguous().to(device))
        self.B = trained_layer(torch.zeros(self.out_features, r), device)
        self.train(host.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out]; the change is computed in its own precision."""
        base = F.linear(x, self.weight, self.bias)
        product = self.B(F.linear(x.to(self.A.dtype), self.A))
        return base + (self.scale * product).to(base.dtype)

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A, B)`."""
        kind = dtype or self.A.dtype
        return self.A.to(kind), self.B.weight.to(kind)

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layer that is trained."""
        return {"B": self.B}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a model file has to hold: the fixed factor too."""
        return {"A": self.A, **self.trainable()}
