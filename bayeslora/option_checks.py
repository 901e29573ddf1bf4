"""Checks of option values: `InputError` names the field, the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection

from bayeslora.errors import InputError, unknown_choice

LARGEST_SEED = 2**32 - 1


def is_number(value: object) -> bool:
    """Return whether a value is a number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_seed(value: object) -> None:
    """Refuse what numpy does not take for a seed: anything but a whole number from 0 to 2³² − 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_SEED:
        raise InputError(f"seed must be an integer from 0 to {LARGEST_SEED}, got {value!r}")


def check_positive(field: str, value: object) -> None:
    """Refuse anything but a finite number above zero."""
    if not is_number(value) or not (math.isfinite(float(value)) and float(value) > 0):  # type: ignore[arg-type]
        raise InputError(f"{field} must be > 0, got {value!r}")


def check_not_negative(field: str, value: object) -> None:
    """Refuse anything but a finite number from zero on."""
    if not is_number(value) or not (math.isfinite(float(value)) and float(value) >= 0):  # type: ignore[arg-type]
        raise InputError(f"{field} must be >= 0, got {value!r}")


def check_share(field: str, value: object) -> None:
    """Refuse anything but a number between 0 and 1, both excluded."""
    if not is_number(value) or not 0 < float(value) < 1:  # type: ignore[arg-type]
        raise InputError(f"{field} must be between 0 and 1, got {value!r}")


def check_below_one(field: str, value: object) -> None:
    """Refuse anything but a number from 0 to just below 1."""
    if not is_number(value) or not 0 <= float(value) < 1:  # type: ignore[arg-type]
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


def check_count(field: str, value: object, least: int) -> None:
    """Refuse anything but a whole number from `least` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{field} must be a whole number >= {least}, got {value!r}")


def check_flag(field: str, value: object) -> None:
    """Refuse anything but true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{field} must be true or false, got {value!r}")
