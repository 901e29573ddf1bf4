"""PoLAR: two orthonormal direction factors around a free core.

    y = x Wᵀ + b + s · x (X Θ Yᵀ)ᵀ ,   XᵀX = YᵀY = I ,   s = alpha / r

Source: Lion, Zhang, Li and He 2025, arXiv 2506.03133.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bayeslora.adapters.base import LowRankAdapter
from bayeslora.option_checks import NotNegative, OnlyWith, Positive, Range

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.optim import Optimizer

    from bayeslora.adapters.factors import Factors
    from bayeslora.adapters.site import Site


@dataclass(frozen=True)
class PoLAR(LowRankAdapter):
    """Two orthonormal factors around a free r × r core that starts at zero."""

    name: ClassVar[str] = "polar"
    summary: ClassVar[str] = (
        "orthonormal directions around a free core, designed to avoid rank collapse"
    )
    use: ClassVar[str] = (
        "The default. A few hundred to a few thousand labelled examples, with any last layer."
    )
    source: ClassVar[str] = "Lion, Zhang, Li & He 2025, arXiv 2506.03133"
    parameters: ClassVar[str] = "r (in + out + r) per layer"
    default_lr: ClassVar[float] = 1e-2
    only_with: ClassVar[OnlyWith] = {
        "landing_lambda": (("constraint", "landing"), ("constraint", "euclidean-penalty")),
        "absorb_every": (("constraint", "landing"), ("constraint", "euclidean-penalty")),
        "max_rotation": (("constraint", "retraction"),),
    }
    retired: ClassVar[frozenset[str]] = frozenset({"init"})

    r: int = 8
    alpha: Annotated[Positive, "The change is multiplied by `alpha / r`."] = 32.0
    target_modules: tuple[str, ...] | None = None
    num_layers: int | Literal["auto"] | None = "auto"
    lr: Annotated[
        Positive | None,
        "Learning rate of the factors and the core; None means {default_lr}.",
    ] = None
    weight_decay: Annotated[
        NotNegative,
        "Decoupled weight decay of the core, which is equivalent to that of the change.",
    ] = 0.0
    constraint: Annotated[
        Literal["euclidean-penalty", "landing", "retraction"],
        "How the direction factors are kept orthonormal: `retraction` (Riemannian AdamW, exactly "
        "orthonormal after every step), `landing` (AdamW with a field that attracts to the "
        "manifold) or `euclidean-penalty` (AdamW with a penalty).",
    ] = "retraction"
    landing_lambda: Annotated[
        NotNegative, "Weight of the attraction or penalty under `landing` and `euclidean-penalty`."
    ] = 5e-3
    absorb_every: Annotated[
        int,
        Range(0),
        "Steps between restorations of orthonormality under `landing` and `euclidean-penalty`, "
        "which do not change the function; 0 means never.",
    ] = 1
    max_rotation: Annotated[
        Positive, "Largest rotation of a factor per step under `retraction`, in radians."
    ] = 0.3

    @property
    def no_gate(self) -> str:
        """A gate is impossible if absorption moves drift of the factors past it into the core."""
        if self.constraint == "retraction" or not self.absorb_every:
            return ""
        return (
            "moving drift of the factors past a gate into the core (constraint "
            f"{self.constraint!r}, absorb_every={self.absorb_every}) would change the network's "
            "outputs; choose constraint='retraction' or absorb_every=0"
        )

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return random orthonormal factors around a zero core."""
        from bayeslora.adapters.polar.stiefel import random_factors

        out_features, in_features = weight.shape
        return random_factors(out_features, in_features, self.r, generator)

    def manifold_optimizer(self, sites: Sequence[Site]) -> Optimizer:
        """Return the optimiser for the constraint."""
        from bayeslora.adapters.low_rank import LowRank
        from bayeslora.adapters.optimizers import manifold_parameters
        from bayeslora.adapters.polar.landing import LandingAdamW
        from bayeslora.adapters.polar.riemannian import RiemannianAdamW

        if self.constraint == "retraction":
            return RiemannianAdamW(
                manifold_parameters(sites), lr=self.learning_rate, max_rotation=self.max_rotation
            )
        return LandingAdamW(
            [site for site in sites if isinstance(site, LowRank)],
            lr=self.learning_rate,
            landing_lambda=self.landing_lambda,
            absorb_every=self.absorb_every,
            project=self.constraint == "landing",
        )
