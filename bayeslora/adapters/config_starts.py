"""Options of the adapters that start from a part of the pretrained weight.

    y = x W0ᵀ + b + s · x (B A − B_0 A_0)ᵀ

A_0 and B_0 are singular vectors of the weight W0, or of W0 as a context sees it, and A and B start
there; so the change is zero
at the start, as for every adapter, and W0 itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.config_checks import check_shared
from bayeslora.errors import InputError
from bayeslora.option_checks import check_choice, check_integer, check_number

MODES = ("ipm", "kpm")
"""Instruction-previewed and knowledge-preserved adaptation."""


@dataclass(frozen=True)
class PiSSA(Adapter):
    """Two free factors that start at the principal singular vectors of the weight.

    Attributes:
        r: Rank of the subspace that is trained; the change has rank 2r at most.
        alpha: The product of the factors is multiplied by `alpha / r`; None takes `r`.
        niter: Power iterations of a randomised singular value decomposition; None takes the exact
            one, of under a second for a layer of a small model.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own query and value projections.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of AdamW on both factors; `None` takes `default_lr`.
        weight_decay: Decoupled weight decay of both factors towards their start.
    """

    name: ClassVar[str] = "pissa"
    has_factors: ClassVar[bool] = True
    from_weight: ClassVar[bool] = True
    summary: ClassVar[str] = "two free factors that start at the weight's largest singular vectors"
    source: ClassVar[str] = "Meng, Wang & Zhang 2024, arXiv 2404.02948"
    parameters: ClassVar[str] = "r (in + out) a layer"
    default_lr: ClassVar[float] = 1e-3
    long_lr: ClassVar[float] = 1e-3

    r: int = 16
    alpha: float | None = None
    niter: int | None = None
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_shared(self)
        check_alpha(self)
        if self.niter is not None:
            # A few are enough, and a large layer takes a second for each.
            check_integer("niter", self.niter, low=0, high=1000, otherwise=" or None (exact)")

    @property
    def scale(self) -> float:
        """The factor s in front of the product of the factors."""
        return scale_of(self)


@dataclass(frozen=True)
class CorDA(Adapter):
    """Two free factors that start at the weight's singular vectors as a context sees them.

    The context is run once before training, and the second moments of the layers' inputs on it
    are kept in the cache directory. Never take rows that the model will be judged by.

    Attributes:
        r: Rank of the subspace that is trained; the change has rank 2r at most.
        alpha: The product of the factors is multiplied by `alpha / r`; None takes `r`.
        mode: `ipm` trains what matters most on the context, `kpm` what matters least, so that what
            the context needs is kept.
        context: A data file, whose texts are in the column of the training texts; or the texts
            themselves. None takes the training rows, for `ipm` only.
        context_rows: Texts of the context that are run, at most, evenly spread over it.
        power: Of the second moment that the weight is multiplied by. 1 is CorDA, 0.5 the best
            approximation of the layer's outputs, 0 PiSSA; reports say so where it is not 1.
        damping: Added to the second moment's diagonal, relative to the mean of that.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own query and value projections.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of AdamW on both factors; `None` takes `default_lr`.
        weight_decay: Decoupled weight decay of both factors towards their start.
    """

    name: ClassVar[str] = "corda"
    has_factors: ClassVar[bool] = True
    from_weight: ClassVar[bool] = True
    summary: ClassVar[str] = "two free factors that start where a context needs the weight, or not"
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2406.05223"
    parameters: ClassVar[str] = "r (in + out) a layer"
    default_lr: ClassVar[float] = 3e-3
    long_lr: ClassVar[float] = 3e-3

    r: int = 16
    alpha: float | None = None
    mode: str = "ipm"
    context: str | tuple[str, ...] | None = None
    context_rows: int = 1000
    power: float = 1.0
    damping: float = 0.01
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_shared(self)
        check_alpha(self)
        check_choice("mode", self.mode, MODES)
        _check_context(self)
        check_integer("context_rows", self.context_rows, low=1)
        check_number("power", self.power, low=0.0)
        if self.power > 1:
            raise InputError(f"power must be a number from 0 to 1, got {self.power!r}")
        check_number("damping", self.damping, above=0.0)

    @property
    def scale(self) -> float:
        """The factor s in front of the product of the factors."""
        return scale_of(self)


def _check_context(config: CorDA) -> None:
    """Complain about a context that is neither a path nor texts; keep texts as a tuple."""
    context: Any = config.context
    if context is None:
        if config.mode == "kpm":
            raise InputError(
                "mode 'kpm' keeps what a context needs, and none is named: context=FILE, or a list "
                "of texts in Python"
            )
        return
    texts = (context,) if isinstance(context, str) else context
    if not isinstance(texts, tuple | list) or not texts:
        raise InputError(f"context must be a file, a list of texts or None, got {context!r}")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"context must hold texts that are not blank, got {text!r}")
    if not isinstance(context, str):
        object.__setattr__(config, "context", tuple(texts))


def table_name(adapter: Mapping[str, Any]) -> str:
    """Return what tables and reports call an adapter of these options: most often its name."""
    power = adapter.get("power", 1)
    is_corda = adapter["name"] != CorDA.name or power == 1
    return str(adapter["name"]) if is_corda else f"context-svd-{power:g}"


def check_alpha(config: PiSSA | CorDA) -> None:
    """Complain where `alpha` is neither a number > 0 nor None.

    Raises:
        InputError: It is not.
    """
    if config.alpha is not None:
        check_number("alpha", config.alpha, above=0.0, otherwise=" or None (r)")


def scale_of(config: PiSSA | CorDA) -> float:
    """Return `alpha / r`, 1 where `alpha` is None."""
    return 1.0 if config.alpha is None else config.alpha / config.r
