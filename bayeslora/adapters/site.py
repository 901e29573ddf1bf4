"""An adapter site: the module that stands in for one linear layer."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from bayeslora.adapters.columns import Columns
from bayeslora.adapters.low_rank import LowRank


@runtime_checkable
class Site(Protocol):
    """What posteriors, optimisers and files may ask of an adapter, whatever its form."""

    name: str
    """Dotted path of the module in its host."""
    scale: float
    """The factor s in front of the change."""

    @property
    def weight(self) -> Tensor:
        """[out, in]: the frozen weight."""

    @property
    def in_features(self) -> int:
        """Number of inputs."""

    @property
    def out_features(self) -> int:
        """Number of outputs."""

    @property
    def centred(self) -> bool:
        """Whether `origin()` is a part of the frozen weight, where decay to 0 would shrink it."""

    @property
    def is_gated(self) -> bool:
        """Whether the change of the weight depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for inputs [..., in]."""

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [k, in], B [out, k])` with the change of the weight `s·B·A`."""

    def delta(self) -> Tensor:
        """Return the change of the weight, [out, in]."""

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same function."""

    def plain(self) -> nn.Linear:
        """Return the layer without the change, holding the very tensors of the replaced one."""

    def check_fixed(self) -> None:
        """Complain where no one matrix is the change of the weight."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the adapter's parameters by name."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file has to hold: `trainable()`, and what it is read with."""

    def origin(self) -> dict[str, Tensor]:
        """Return the point that a prior over `trainable()` is centred on; the change there is 0."""

    def manifold(self) -> dict[str, str]:
        """Return the manifold of each parameter that has one: `stiefel`."""

    def linears(self) -> dict[str, nn.Linear]:
        """Return the linear layers that hold the parameters, each called once a forward pass."""


AnySite: TypeAlias = LowRank | Columns
"""The forms that a site has."""
