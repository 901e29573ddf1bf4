"""Checks of option values, as the posteriors' configurations use them."""

from __future__ import annotations

from bayeslora.option_checks import (
    check_choice,
    check_count,
    check_flag,
    check_positive,
    check_positive_or_name,
    is_number,
)

__all__ = [
    "check_choice",
    "check_count",
    "check_flag",
    "check_positive",
    "check_positive_or_name",
    "is_number",
]
