"""Settings and interface of adapters that train on few-shot episodes; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Adversary:
    """Perturbations that one member of a pool is tuned against.

    Attributes:
        inputs: ε of the input perturbation: for a token, a share of the mean norm of an embedding;
            for a pixel, a share of its range. 0 for none.
        weights: γ_w of the weight perturbation, a share of each factor's norm. 0 for none.
    """

    inputs: float
    weights: float


@dataclass(frozen=True)
class Episodes:
    """How the members of a pool are tuned, one after the other.

    Attributes:
        ways: N, classes per episode; fewer if the data has fewer.
        shots: K, support examples per class.
        queries: M, maximal number of query examples per class.
        count: Episodes per member.
        lr: Initial learning rate of SGD, with cosine decay.
        momentum: Momentum of SGD.
        penalty: λ, weight of the divergence between clean and perturbed predictions.
        steps: Steps of the input perturbation.
        texts: An adversary per member for texts.
        images: An adversary per member for images.
    """

    ways: int
    shots: int
    queries: int
    count: int
    lr: float
    momentum: float
    penalty: float
    steps: int
    texts: tuple[Adversary, ...]
    images: tuple[Adversary, ...]


class PooledSite(Protocol):
    """An adapted layer that applies a mixture of several members."""

    name: str

    @property
    def num_members(self) -> int:
        """P."""
        ...

    @property
    def cosine_scales(self) -> Tensor:
        """[P]: κ of each member."""
        ...

    def select(self, weights: Sequence[float]) -> None:
        """Set the mixture weights, P numbers that sum to 1."""
        ...

    def parts(self, member: int) -> list[tuple[Tensor, slice, int]]:
        """Return the parameters of a member: tensor, slice, and axis of the slice."""
        ...
