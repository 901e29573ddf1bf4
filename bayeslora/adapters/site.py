"""An adapter site: the module that stands in for one linear layer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Site(Protocol):
    """What posteriors, optimisers and files may ask of an adapter, whatever its form."""

    name: str
    """Dotted path of the module in its host."""
    scale: float
    """The factor s in front of the change."""
    weight: nn.Parameter
    """[out, in]: the frozen weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for inputs [..., in]."""

    def delta(self) -> Tensor:
        """Return the change of the weight, [out, in]."""

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same function."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the adapter's parameters by name."""

    def origin(self) -> dict[str, Tensor]:
        """Return the point that a prior over `trainable()` is centred on; the change there is 0."""

    def manifold(self) -> dict[str, str]:
        """Return the manifold of each parameter that has one: `stiefel`."""

    def linears(self) -> dict[str, nn.Linear]:
        """Return the linear layers that hold the parameters, each called once a forward pass."""
