"""Checks of options that adapters share."""

from __future__ import annotations

import math
from typing import Any, Protocol

from bayeslora.errors import InputError


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


def check_shared(config: Shared) -> None:
    """Complain about `r` where there is one, `num_layers`, `lr`, `weight_decay`, `target_modules`.

    Raises:
        InputError: One of them is not allowed.
    """
    if hasattr(config, "r"):
        whole(config, "r", low=1)
    if config.num_layers is not None:
        whole(config, "num_layers", low=1, otherwise=" or None (all layers)")
    check_rate(config)
    number(config, "weight_decay", low=0.0)
    _check_targets(config)


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
        number(config, "lr", above=0.0, otherwise=" or None (the adapter's default)")


def _check_targets(config: Shared) -> None:
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


def number(
    config: object,
    field: str,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    otherwise: str = "",
) -> None:
    """Complain where an option is not a finite number within bounds.

    Args:
        config: Holds the option.
        field: Its name.
        low: Least value.
        above: What it must exceed.
        below: What it must stay under.
        otherwise: What else is allowed, as the message says it.

    Raises:
        InputError: It is not.
    """
    value: Any = getattr(config, field)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value >= low and above < value < below:
        return
    bounds = [f">= {low:g}"] if low > -math.inf else [f"> {above:g}"]
    bounds += [f"< {below:g}"] if below < math.inf else []
    raise InputError(f"{field} must be a number {' and '.join(bounds)}{otherwise}, got {value!r}")


def whole(config: object, field: str, *, low: int, otherwise: str = "") -> None:
    """Complain where an option is not an integer of at least `low`.

    Args:
        config: Holds the option.
        field: Its name.
        low: Least value.
        otherwise: What else is allowed, as the message says it.

    Raises:
        InputError: It is not.
    """
    value: Any = getattr(config, field)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{field} must be an integer >= {low}{otherwise}, got {value!r}")
