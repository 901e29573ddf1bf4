"""Errors that a person can act on.

The command line turns `InputError` into exit code 2 and prints its message alone, so a message is
one or two lines that name the file, the row, the column, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something that was passed in is wrong: an option, a file, a value in a file."""


class MissingAssetError(InputError):
    """An optional package, an embedded model or a data set is not installed."""


def unknown_choice(what: str, value: str, allowed: Iterable[str]) -> InputError:
    """Return the error for a name outside a closed set, with the nearest name that is in it.

    Args:
        what: What the name stands for, such as `link` or `adapter`.
        value: The name that was given.
        allowed: Every name that would have been accepted.
    """
    names = sorted(allowed)
    near = get_close_matches(value, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    choices = ", ".join(repr(name) for name in names)
    return InputError(f"unknown {what} {value!r}{hint}; choose from {choices}")
