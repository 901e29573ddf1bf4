"""Values and names in messages, on one line and of bounded length."""

from __future__ import annotations

from collections.abc import Sequence


def shown(value: object) -> str:
    """Return the representation of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def listed(names: Sequence[str]) -> str:
    """Return names in quotation marks with commas; of more than eight, the first eight."""
    rest = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(map(shown, names[:8])) + rest
