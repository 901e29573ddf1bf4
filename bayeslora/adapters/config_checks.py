"""Checks of options that adapters share."""

from __future__ import annotations

from typing import Any, Protocol

from bayeslora.errors import InputError
from bayeslora.option_checks import check_integer, check_number


class Shared(Protocol):
    """The options that every adapter has."""

    @property
    def target_modules(self) -> tuple[str, ...] | None:
        """Which layers carry the adapter."""

    @property
    def num_layers(self) -> int | None:
        """On how many of the last transformer layers."""

    @property
    def lr(self) -> float | None:
        """Learning rate of the adapter."""

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay of the adapter."""


def check_shared(config: Shared) -> None:
    """Complain about `r` where there is one, `num_layers`, `lr`, `weight_decay`, `target_modules`.

    Raises:
        InputError: One of them is not allowed.
    """
    if hasattr(config, "r"):
        check_integer("r", config.r, low=1)
    if config.num_layers is not None:
        check_integer("num_layers", config.num_layers, low=1, otherwise=" or None (all layers)")
    check_rate(config)
    check_number("weight_decay", config.weight_decay, low=0.0)
    check_names(config, "target_modules", "modules")


class Rated(Protocol):
    """What has a learning rate."""

    @property
    def lr(self) -> float | None:
        """Learning rate; None stands for the default."""


def check_rate(config: Rated) -> None:
    """Complain about `lr`.

    Raises:
        InputError: It is not allowed.
    """
    if config.lr is not None:
        check_number("lr", config.lr, above=0.0, otherwise=" or None (the adapter's default)")


def check_names(config: object, field: str, what: str) -> None:
    """Let one string stand for a tuple of one, and refuse anything but non-empty strings or None.

    Args:
        config: A frozen dataclass; the tuple is put into it.
        field: Which of its fields.
        what: What the strings name, for the message.

    Raises:
        InputError: The value is something else.
    """
    value: Any = getattr(config, field)
    if value is None:
        return
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, tuple | list) or not items:
        raise InputError(f"{field} must be names of {what} or None, got {value!r}")
    for item in items:
        if not isinstance(item, str) or not item:
            raise InputError(f"{field} must hold non-empty strings, got {item!r}")
    object.__setattr__(config, field, tuple(items))
