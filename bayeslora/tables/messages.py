"""Values and names in messages, on one line and of bounded length."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTH = 60


def shown(value: object) -> str:
    """Return the representation of a value, cut to 60 characters."""
    if isinstance(value, str | bytes):
        value = value[:_WIDTH]  # the representation of a text of megabytes takes seconds
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # deep nesting, or an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def listed(names: Sequence[str]) -> str:
    """Return names in quotation marks with commas; of more than eight, the first eight."""
    rest = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(map(shown, names[:8])) + rest
