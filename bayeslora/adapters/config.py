"""What an adapter is made of: the options of LoRA and PoLAR, and all adapters by name.

A site adds `s·B·A` (LoRA) or `s·X·Θ·Yᵀ` (PoLAR) to a frozen weight, with `s = alpha / r`. Those
that start from a part of that weight are in `config_starts`, and the one that trains columns of it
in `config_columns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.config_checks import check_shared
from bayeslora.adapters.config_columns import S2FT
from bayeslora.adapters.config_lisa import LISA
from bayeslora.adapters.config_none import Frozen
from bayeslora.adapters.config_starts import CorDA, PiSSA
from bayeslora.option_checks import OnlyWith, check_choice, check_flag, check_integer, check_number

CONSTRAINTS = ("euclidean-penalty", "landing", "retraction")
"""How PoLAR's direction factors are kept orthonormal."""


@dataclass(frozen=True)
class LoRA(Adapter):
    """Two free factors, the second starting at zero.

    Attributes:
        r: Rank of the change of every adapted weight.
        alpha: The change is multiplied by `alpha / r`.
        dropout: Probability that an input of the first factor is dropped while training.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own query and value projections.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of AdamW on both factors; `None` takes `default_lr`, or `long_lr` where
            `fit` trains for ten epochs or more.
        weight_decay: Decoupled weight decay of both factors.
        use_rslora: Whether the change is multiplied by `alpha / √r` instead, so that the size of a
            step does not fall with the rank (Kalajdzievski 2023, arXiv 2312.03732).
    """

    name: ClassVar[str] = "lora"
    has_factors: ClassVar[bool] = True
    has_dropout: ClassVar[bool] = True
    is_free: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "low-rank change of frozen weights with two free factors; use_rslora=true for large r"
    )
    source: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685"
    parameters: ClassVar[str] = "r (in + out) a layer"
    default_lr: ClassVar[float] = 3e-3
    long_lr: ClassVar[float] = 3e-3

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float | None = None
    weight_decay: float = 0.0
    use_rslora: bool = False

    def __post_init__(self) -> None:
        check_shared(self)
        check_number("alpha", self.alpha, above=0.0)
        check_number("dropout", self.dropout, low=0.0, below=1.0)
        check_flag("use_rslora", self.use_rslora)

    @property
    def scale(self) -> float:
        """The factor s in front of the change."""
        return self.alpha / (self.r**0.5 if self.use_rslora else self.r)


@dataclass(frozen=True)
class PoLAR(Adapter):
    """Two orthonormal factors around a free r × r core that starts at zero.

    Attributes:
        r: Rank of the change of every adapted weight.
        alpha: The change is multiplied by `alpha / r`.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own query and value projections.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of the factors and of the core; `None` takes `default_lr`, or `long_lr`
            where `fit` trains for ten epochs or more (not under `SWAG`, which averages its way).
        weight_decay: Decoupled weight decay of the core, which is exactly that of the change.
        constraint: `retraction` (Riemannian AdamW, exactly orthonormal after every step),
            `landing` (a field that attracts to the manifold, under AdamW) or
            `euclidean-penalty` (gradient plus penalty, under AdamW).
        landing_lambda: Weight of the attraction in the last two.
        absorb_every: In the last two, orthonormality is restored without changing the function
            every so many steps; 0 means never.
        max_rotation: Largest step of a factor in radians under `retraction`.
    """

    name: ClassVar[str] = "polar"
    has_factors: ClassVar[bool] = True
    summary: ClassVar[str] = "orthonormal directions around a free core, which avoids rank collapse"
    source: ClassVar[str] = "Lion, Zhang, Li & He 2025, arXiv 2506.03133"
    parameters: ClassVar[str] = "r (in + out + r) a layer"
    default_lr: ClassVar[float] = 4e-3
    long_lr: ClassVar[float] = 1e-2
    only_with: ClassVar[OnlyWith] = {
        "landing_lambda": (("constraint", "landing"), ("constraint", "euclidean-penalty")),
        "absorb_every": (("constraint", "landing"), ("constraint", "euclidean-penalty")),
        "max_rotation": (("constraint", "retraction"),),
    }

    r: int = 8
    alpha: float = 32.0
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float | None = None
    weight_decay: float = 0.0
    constraint: str = "retraction"
    landing_lambda: float = 5e-3
    absorb_every: int = 1
    max_rotation: float = 0.3

    def __post_init__(self) -> None:
        check_shared(self)
        check_number("alpha", self.alpha, above=0.0)
        check_choice("constraint", self.constraint, CONSTRAINTS)
        check_number("landing_lambda", self.landing_lambda, low=0.0)
        check_integer("absorb_every", self.absorb_every, low=0)
        check_number("max_rotation", self.max_rotation, above=0.0)

    @property
    def no_gate(self) -> str:
        """Why nothing can stand between the factors: drift that is moved past it into the core."""
        if self.constraint == "retraction" or not self.absorb_every:
            return ""
        return (
            "moving their drift past it into the core (constraint "
            f"{self.constraint!r}, absorb_every={self.absorb_every}) would change what the network "
            "computes; choose constraint='retraction' or absorb_every=0"
        )

    @property
    def scale(self) -> float:
        """The factor s in front of the change."""
        return self.alpha / self.r


ADAPTERS: dict[str, type[Adapter]] = {
    cls.name: cls for cls in (LoRA, PoLAR, PiSSA, CorDA, S2FT, LISA, Frozen)
}
"""Every adapter by the name that the command line uses."""
