"""Options of the adapters that start from a part of the pretrained weight.

    y = x W0ᵀ + b + s · x (B A − B_0 A_0)ᵀ

A_0 and B_0 are singular vectors of the weight W0, and A and B start there; so the change is zero
at the start, as for every adapter, and W0 itself stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayeslora.adapters.config_checks import check_shared, number, whole


@dataclass(frozen=True)
class PiSSA:
    """Two free factors that start at the principal singular vectors of the weight.

    Attributes:
        r: Rank of the subspace that is trained; the change has rank 2r at most.
        alpha: The product of the factors is multiplied by `alpha / r`; None takes `r`.
        niter: Power iterations of a randomised singular value decomposition; None takes the exact
            one, of under a second for a layer of a small model.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own query and value projections.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of AdamW on both factors.
        weight_decay: Decoupled weight decay of both factors towards their start.
    """

    name: ClassVar[str] = "pissa"
    summary: ClassVar[str] = "two free factors that start at the weight's largest singular vectors"
    source: ClassVar[str] = "Meng, Wang & Zhang 2024, arXiv:2404.02948"

    r: int = 16
    alpha: float | None = None
    niter: int | None = None
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float = 3e-4
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_shared(self)
        check_alpha(self)
        if self.niter is not None:
            whole(self, "niter", low=0, otherwise=" or None (exact)")

    @property
    def scale(self) -> float:
        """The factor s in front of the product of the factors."""
        return scale_of(self)


def check_alpha(config: PiSSA) -> None:
    """Complain where `alpha` is neither a number > 0 nor None.

    Raises:
        InputError: It is not.
    """
    if config.alpha is not None:
        number(config, "alpha", above=0.0, otherwise=" or None (r)")


def scale_of(config: PiSSA) -> float:
    """Return `alpha / r`, 1 where `alpha` is None."""
    return 1.0 if config.alpha is None else config.alpha / config.r
