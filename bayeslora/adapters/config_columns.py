"""Options of the adapter that trains columns of the weight itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.config_checks import check_names, check_shared
from bayeslora.errors import InputError
from bayeslora.option_checks import OnlyWith, check_choice, check_flag, check_integer, check_number

SELECTIONS = ("activation", "gradient", "product", "random", "weight")
"""What the heads and channels are ranked by."""

LEARNED = ("activation", "gradient", "product")
"""Those that training rows are run for."""


@dataclass(frozen=True)
class S2FT(Adapter):
    """A few attention heads and feed-forward channels, trained in full while the rest is frozen.

    A head is its columns of the attention's output projection, a channel its column of the
    feed-forward down projection. Both budgets are shares of all adapted layers together: some
    layers get more than others, and some none.

    Attributes:
        o_ratio: Share of the attention heads that are trained, at least one; 0 leaves attention as
            it is.
        d_ratio: Share of the feed-forward channels, likewise.
        selection: `random`; or by the norm of the columns (`weight`), of the inputs that they meet
            on training rows (`activation`), of both together (`product`), or of the loss's
            gradient there (`gradient`).
        largest: Whether the largest are taken, or the smallest.
        avoid: Model directories, whose columns are left alone, so that their adapters and this one
            can be fused. The budgets stay shares of all heads and channels.
        context_rows: Training rows that are run for a selection, at most, evenly spread over them.
        target_modules: Endings of dotted module names, or regular expressions of whole names;
            `None` takes the architecture's own output and down projections. An attention output is
            cut into heads and everything else into channels.
        num_layers: Adapters sit on this many of the last transformer layers; `None` means all.
        lr: Learning rate of AdamW on the columns; `None` takes `default_lr`.
        weight_decay: Decoupled weight decay of their change, so towards the pretrained columns.
    """

    name: ClassVar[str] = "s2ft"
    summary: ClassVar[str] = "a few heads and channels of the weights themselves, the rest frozen"
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2412.06289"
    parameters: ClassVar[str] = "out a column"
    default_lr: ClassVar[float] = 1e-2
    long_lr: ClassVar[float] = 1e-2
    only_with: ClassVar[OnlyWith] = {
        "largest": tuple(("selection", name) for name in SELECTIONS if name != "random"),
        "context_rows": tuple(
            ("selection", name) for name in ("activation", "product", "gradient")
        ),
    }

    o_ratio: float = 0.052
    d_ratio: float = 0.02
    selection: str = "random"
    largest: bool = True
    avoid: tuple[str, ...] | None = None
    context_rows: int = 1000
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = 6
    lr: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_shared(self)
        for field in ("o_ratio", "d_ratio"):
            check_number(field, getattr(self, field), low=0.0)
            if getattr(self, field) > 1:
                raise InputError(
                    f"{field} must be a number from 0 to 1, got {getattr(self, field)!r}"
                )
        if not self.o_ratio and not self.d_ratio:
            raise InputError("o_ratio and d_ratio are both 0, so nothing would be trained")
        check_choice("selection", self.selection, SELECTIONS)
        check_flag("largest", self.largest)
        check_names(self, "avoid", "model directories")
        check_integer("context_rows", self.context_rows, low=1)
