"""What an adapter that trains on few-shot episodes tells the engine; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Adversary:
    """What one member of a pool is tuned against.

    Attributes:
        inputs: ε of the perturbation of inputs: of a text's token, a share of the mean norm of an
            embedding; of an image's pixel, a share of its range. 0 for none.
        weights: γ_w of the perturbation of the adapter: a share of each factor's norm. 0 for none.
    """

    inputs: float
    weights: float


@dataclass(frozen=True)
class Episodes:
    """How members of a pool are tuned, one after the other, and joined.

    Attributes:
        ways: N, classes of an episode; fewer if the data has fewer.
        shots: K, support examples of a class.
        queries: M, query examples of a class, at most.
        count: Episodes of each member.
        lr: Learning rate of SGD at the start; it falls as a cosine.
        momentum: Of SGD.
        penalty: λ, weight of the divergence between clean and perturbed answers.
        steps: Steps of the perturbation of inputs.
        texts: An adversary for each member, where inputs are texts.
        images: The same, where they are images.
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
    """An adapted layer with several members, of which a mixture acts on the layer."""

    name: str

    @property
    def num_members(self) -> int:
        """P."""
        ...

    @property
    def cosine_scales(self) -> Tensor:
        """[P]: κ that each member was tuned with."""
        ...

    def select(self, weights: Sequence[float]) -> None:
        """Set the mixture of members to P weights that sum to 1."""
        ...

    def parts(self, member: int) -> list[tuple[Tensor, slice, int]]:
        """Return the parameters of a member: tensor, which of its places, along which axis."""
        ...
