"""What the engine asks of every adapter; free of torch, as all options are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

from bayeslora.option_checks import OnlyWith


class Adapter:
    """Options of an adapter: a frozen dataclass that says what the method is and what it offers.

    Subclasses set the class variables that differ from the defaults here. The engine reads these
    and calls the methods, and knows no adapter by its class.

    Attributes:
        name: Of the method on the command line and in files.
        summary: A few words for lists.
        source: Of the method.
        parameters: What the method trains, for lists.
        default_lr: Learning rate where none is given.
        long_lr: The same for fits of ten epochs or more.
        only_with: Options that have no effect without another.
        has_sites: Whether modules of ours stand in the place of linear layers.
        has_factors: Whether these are low-rank, so that a posterior can be over their factors.
        has_dropout: Whether the adapter has a dropout of its own.
        is_free: Whether the first factor is free and starts at random, as LoRA's.
        from_weight: Whether the factors start from a part of the pretrained weight.
        trains: Whether anything of the backbone changes.
        lr: Learning rate that was given.
        weight_decay: Decoupled weight decay.
        target_modules: Which linear layers carry the adapter; None takes the architecture's own.
        num_layers: On how many of the last transformer layers; None means all.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    parameters: ClassVar[str]
    default_lr: ClassVar[float] = 0.0
    long_lr: ClassVar[float] = 0.0
    only_with: ClassVar[OnlyWith] = {}

    has_sites: ClassVar[bool] = True
    has_factors: ClassVar[bool] = False
    has_dropout: ClassVar[bool] = False
    is_free: ClassVar[bool] = False
    from_weight: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    lr: float | None = None
    weight_decay: float = 0.0
    target_modules: tuple[str, ...] | None = None
    num_layers: int | None = None

    @property
    def no_gate(self) -> str:
        """Why nothing can stand between the factors while they train; empty where it can."""
        return ""

    def learning_rate(self, *, long: bool = False) -> float:
        """Return the learning rate.

        Args:
            long: Whether there are many epochs for a higher rate to fall in.
        """
        if self.lr is not None:
            return self.lr
        return self.long_lr if long else self.default_lr

    def with_rate(self, *, long: bool) -> Self:
        """Return these options with their learning rate written out; see `learning_rate`."""
        options: Any = self
        found: Self = replace(options, lr=self.learning_rate(long=long)) if self.trains else self
        return found
