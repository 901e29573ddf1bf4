"""Options from a YAML file, which those of the command line override."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import read_yaml

_WITH_OPTIONS = ("adapter", "posterior", "verbaliser")
_BY_TASK = ("multi_task", "validation")


def fill(args: argparse.Namespace) -> None:
    """Set options missing on the command line to their values in the file `args.config`, if any.

    Their names are stored in `args.from_config`.

    Args:
        args: Parsed arguments, with None for missing options, and as `actions` the arguments that a
            file may set, by name.

    Raises:
        InputError: The file, a name or a value in it is wrong.
    """
    if getattr(args, "config", None) is None:
        return
    actions: Mapping[str, argparse.Action] = args.actions
    seen: set[str] = set()
    args.from_config = set()
    for name, value in _read(args.config).items():
        known = str(name).replace("-", "_")
        if known in seen:
            raise InputError(f"{args.config}: option {name!r} is set twice")
        seen.add(known)
        if known not in actions:
            raise InputError(f"{args.config}: {unknown_choice('option', str(name), actions)}")
        if value is not None and getattr(args, known) is None:
            setattr(args, known, _checked(f"{args.config}: {name}", value, actions[known]))
            args.from_config.add(known)


def _read(path: str) -> Mapping[Any, Any]:
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must be a mapping, such as `epochs: 5`")
    return content


def _as_text(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _checked(label: str, value: Any, action: argparse.Action) -> Any:
    """Return a value as the command line would have parsed it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{label}: must be true or false, got {value!r}")
        return value or None
    if isinstance(value, Mapping) and action.dest == "verbaliser":
        # Numbers are class names; true and false may have been yes and no, and are refused later.
        return {_as_text(name): _as_text(words) for name, words in value.items()}
    if isinstance(value, Mapping) and action.dest in _BY_TASK:
        if not all(isinstance(file, str) for file in value.values()):
            raise InputError(f"{label}: must map each task to a file, got {dict(value)!r}")
        return {str(name): file for name, file in value.items()}
    if isinstance(value, Mapping) and action.dest in _WITH_OPTIONS:
        return dict(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{label}: must be a string or a number, got {value!r}")
    try:
        parsed = action.type(str(value)) if callable(action.type) else str(value)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{label}: {error}") from None
    if action.choices is not None and parsed not in action.choices:
        raise InputError(f"{label}: {unknown_choice('value', str(parsed), action.choices)}")
    return parsed
