"""What an adapter is made of: the options of LoRA and PoLAR.

A site adds `s·B·A` (LoRA) or `s·X·Θ·Yᵀ` (PoLAR) to a frozen weight, with `s = alpha / r`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from bayeslora.errors import InputError, unknown_choice

CONSTRAINTS = ("euclidean-penalty", "landing", "retraction")
"""How PoLAR's direction factors are kept orthonormal."""


@dataclass(frozen=True)
class LoRA:
    """Two free factors, the second starting at zero.

    Attributes:
        r: Rank of the change of every adapted weight.
        alpha: The change is multiplied by `alpha / r`.
        dropout: Probability that an input of the first factor is dropped while training.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own query and value projections.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of AdamW on both factors.
        weight_decay: Decoupled weight decay of both factors.
    """

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank change of frozen weights with two free factors"
    source: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_shared(self)
        _number(self, "dropout", low=0.0, below=1.0)


@dataclass(frozen=True)
class PoLAR:
    """Two orthonormal factors around a free r × r core that starts at zero.

    Attributes:
        r: Rank of the change of every adapted weight.
        alpha: The change is multiplied by `alpha / r`.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own query and value projections.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of the factors and of the core.
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
    summary: ClassVar[str] = "orthonormal directions around a free core, which avoids rank collapse"
    source: ClassVar[str] = "Lion, Zhang, Li & He 2025, arXiv:2506.03133"

    r: int = 8
    alpha: float = 32.0
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float = 4e-3
    weight_decay: float = 0.0
    constraint: str = "retraction"
    landing_lambda: float = 5e-3
    absorb_every: int = 1
    max_rotation: float = 0.3

    def __post_init__(self) -> None:
        _check_shared(self)
        if self.constraint not in CONSTRAINTS:
            raise unknown_choice("constraint", str(self.constraint), CONSTRAINTS)
        _number(self, "landing_lambda", low=0.0)
        _whole(self, "absorb_every", low=0)
        _number(self, "max_rotation", above=0.0)


AdapterConfig: TypeAlias = LoRA | PoLAR

ADAPTERS: dict[str, type[LoRA] | type[PoLAR]] = {cls.name: cls for cls in (LoRA, PoLAR)}
"""Every adapter by the name that the command line uses."""


def _check_shared(config: AdapterConfig) -> None:
    _whole(config, "r", low=1)
    _number(config, "alpha", above=0.0)
    if config.num_layers is not None:
        _whole(config, "num_layers", low=1, otherwise=" or None (all layers)")
    _number(config, "lr", above=0.0)
    _number(config, "weight_decay", low=0.0)
    _check_targets(config)


def _check_targets(config: AdapterConfig) -> None:
    """Let one string stand for a tuple of one, and refuse anything but non-empty strings."""
    targets: Any = config.target_modules
    if targets is None:
        return
    items = (targets,) if isinstance(targets, str) else targets
    if not isinstance(items, tuple | list) or not items:
        raise InputError(f"target_modules must be names of modules or None, got {targets!r}")
    for item in items:
        if not isinstance(item, str) or not item:
            raise InputError(f"target_modules must hold non-empty strings, got {item!r}")
    object.__setattr__(config, "target_modules", tuple(items))


def _number(
    config: AdapterConfig,
    field: str,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    value: Any = getattr(config, field)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value >= low and above < value < below:
        return
    bounds = [f">= {low:g}"] if low > -math.inf else [f"> {above:g}"]
    bounds += [f"< {below:g}"] if below < math.inf else []
    raise InputError(f"{field} must be a number {' and '.join(bounds)}, got {value!r}")


def _whole(config: AdapterConfig, field: str, *, low: int, otherwise: str = "") -> None:
    value: Any = getattr(config, field)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{field} must be an integer >= {low}{otherwise}, got {value!r}")
