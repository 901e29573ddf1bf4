"""Checks of option values, and the names that options of several rooms accept; free of torch.

`InputError` names the field, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Literal, TypeGuard

from bayeslora.errors import InputError, unknown_choice

DTYPES = ("auto", "float32", "bfloat16")
"""What the frozen weights can be asked to be."""
KL_WEIGHTS = ("cyclic", "uniform")
"""Of the KL in the steps of a variational posterior."""
KINDS = ("text-classification", "multiple-choice")
"""What `task` may say of data of your own."""
LINKS = ("mc", "probit", "bridge")
"""From logits to probabilities."""
MAX_LENGTH = 128
"""Tokens kept of a text where nothing else is asked for."""
STRUCTURES = ("diag", "full", "kron")
"""Of the curvature in a Laplace approximation."""

Pooling = Literal["first", "last", "mean"]
"""Which state is the feature: that of the first token, of the last, or the mean over tokens."""

OnlyWith = Mapping[str, tuple[tuple[str, object], ...]]
"""Options that have no effect without another: by name, pairs of the other's name and value."""


LARGEST_SEED = 2**32 - 1

LARGEST_COUNT = 1_000_000
"""Of draws, steps, epochs, rows in a batch and the like; a larger one is a slip of the finger that
fills the memory or computes for days."""

SMALLEST_NUMBER, LARGEST_NUMBER = 1e-12, 1e12
"""Of scales, rates and factors other than 0: their squares and the ratios of these have to fit into
float32, which ends at 1e-38 and 3e38."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number; truth values are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_whole(value: object) -> int | None:
    """Return a whole number, of numpy's kinds too, as Python's; None where it is something else."""
    is_one = isinstance(value, Integral) and not isinstance(value, bool)
    return int(value) if is_one else None  # type: ignore[call-overload]


def as_seed(value: object) -> int:
    """Return a seed as Python's integer.

    Raises:
        InputError: numpy does not take it: it is no whole number from 0 to 2³² − 1.
    """
    seed = as_whole(value)
    if seed is None or not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed must be an integer from 0 to {LARGEST_SEED}, got {value!r}")
    return seed


def check_number(
    field: str,
    value: object,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    otherwise: str = "",
) -> None:
    """Refuse anything but a finite number within bounds.

    Args:
        field: Name of the option.
        value: Its value.
        low: Least value.
        above: What it must exceed.
        below: What it must stay under.
        otherwise: What else is allowed, as the message says it.

    Raises:
        InputError: It is something else.
    """
    if is_number(value) and math.isfinite(value) and value >= low and above < value < below:
        _check_size(field, value)
        return
    bounds = [f">= {low:g}"] if low > -math.inf else [f"> {above:g}"]
    bounds += [f"< {below:g}"] if below < math.inf else []
    raise InputError(f"{field} must be a number {' and '.join(bounds)}{otherwise}, got {value!r}")


def check_integer(
    field: str, value: object, *, low: int, high: float = LARGEST_COUNT, otherwise: str = ""
) -> None:
    """Refuse anything but an integer from `low` to `high`; `otherwise` says what else goes."""
    if not is_whole(value) or value < low:
        raise InputError(f"{field} must be an integer >= {low}{otherwise}, got {value!r}")
    if value > high:
        raise InputError(f"{field} must be an integer from {low} to {high:,}, got {value!r}")


def check_positive(field: str, value: object) -> None:
    """Refuse anything but a number above zero, within the limits of all numbers."""
    if not is_number(value) or not (math.isfinite(value) and value > 0):
        raise InputError(f"{field} must be > 0, got {value!r}")
    _check_size(field, value)


def check_not_negative(field: str, value: object) -> None:
    """Refuse anything but a number from zero on, within the limits of all numbers."""
    if not is_number(value) or not (math.isfinite(value) and value >= 0):
        raise InputError(f"{field} must be >= 0, got {value!r}")
    _check_size(field, value)


def _check_size(field: str, value: float) -> None:
    if value != 0 and not SMALLEST_NUMBER <= abs(value) <= LARGEST_NUMBER:
        span = f"from {SMALLEST_NUMBER:g} to {LARGEST_NUMBER:g}"
        raise InputError(f"{field} must be a number {span}, got {value!r}")


def check_share(field: str, value: object) -> None:
    """Refuse anything but a number between 0 and 1, both excluded."""
    if not is_number(value) or not 0 < value < 1:
        raise InputError(f"{field} must be between 0 and 1, got {value!r}")


def check_below_one(field: str, value: object) -> None:
    """Refuse anything but a number from 0 to just below 1."""
    if not is_number(value) or not 0 <= value < 1:
        raise InputError(f"{field} must be at least 0 and below 1, got {value!r}")


def check_positive_or_name(field: str, value: object, names: Collection[str]) -> None:
    """Refuse anything but a finite number above zero or one of `names`."""
    if not isinstance(value, str):
        check_positive(field, value)
    elif value not in names:
        raise unknown_choice(f"{field} (a number > 0, or a name)", value, names)


def check_choice(field: str, value: object, allowed: Collection[str]) -> None:
    """Refuse anything that is not in `allowed`."""
    if value not in allowed:
        raise unknown_choice(field, str(value), allowed)


def check_count(field: str, value: object, least: int, most: float = LARGEST_COUNT) -> None:
    """Refuse anything but a whole number from `least` to `most`."""
    if not is_whole(value) or value < least:
        raise InputError(f"{field} must be a whole number >= {least}, got {value!r}")
    if value > most:
        raise InputError(f"{field} must be a whole number from {least} to {most:,}, got {value!r}")


def check_flag(field: str, value: object) -> None:
    """Refuse anything but true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{field} must be true or false, got {value!r}")
