"""Configuration objects that strings and mappings can stand for.

A method's options are one frozen dataclass. `"vbll:prior_scale=2,bound=jensen"`, a mapping with a
`name` key, the bare name, and the object itself all mean the same thing wherever one is accepted.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import quoted
from bayeslora.safe_yaml import load_yaml

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
# Commas between options, not those inside brackets.
_COMMA = re.compile(r",(?![^\[({]*[\])}])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def resolve(what: str, value: object, choices: Mapping[str, type[Any]]) -> Any:
    """Return the configuration object that `value` stands for.

    Args:
        what: What is chosen, for messages: `adapter`, `posterior`.
        value: An instance of a class in `choices`, a name, `name:key=value,…`, or a mapping.
        choices: Configuration classes by name.

    Raises:
        InputError: The name, an option or an option's value is not allowed.

    Example:
        >>> from bayeslora.recalibration.config import RECALIBRATORS
        >>> resolve("method", "isotonic:smoothing=2", RECALIBRATORS)
        IsotonicOptions(smoothing=2)
        >>> resolve("method", {"name": "isotonic"}, RECALIBRATORS)
        IsotonicOptions(smoothing=1.0)
    """
    if _is_one_of(value, choices):
        return value
    if isinstance(value, str):
        name, options = _parse(what, value)
    elif isinstance(value, Mapping):
        if "name" not in value:
            raise InputError(f"{what} needs a name beside its options, got {dict(value)!r}")
        options = {key: _number(key, item) for key, item in value.items() if key != "name"}
        name = str(value.get("name", ""))
    else:
        allowed = ", ".join(sorted(choices))
        raise InputError(
            f"{what} must be a name or an object ({allowed}), got {value!r}", code="option"
        )
    if name not in choices:
        raise unknown_choice(what, name, choices)
    # What is chosen from a single kind has its name.
    where = what if name == what else f"{what} {name}"
    try:
        config = _build(where, choices[name], options)
    except InputError as error:
        if quoted(name) in str(error) or where in str(error):  # it says so itself
            raise
        raise error.within(what if name == what else f"{what} {quoted(name)}") from None
    if isinstance(value, str):  # typed by a person; a record or a mapping states all options
        refuse_idle(where, config, options)
    return config


def refuse_idle(where: str, config: Any, names: Iterable[str]) -> None:
    """Raise InputError if an option that was named has no effect beside the others.

    Args:
        where: What the options are of, for the message.
        config: The options. The class may say in `only_with` which of its options need another:
            by the option's name, pairs of another's name and its value, any of which will do.
        names: The options that were named; one that has its default misleads nobody.
    """
    needs: Mapping[str, tuple[tuple[str, object], ...]] = getattr(config, "only_with", {})
    for name in names:
        pairs = needs.get(name, ())
        is_default = getattr(config, name) == getattr(type(config), name, None)
        if not pairs or is_default or any(getattr(config, one) == value for one, value in pairs):
            continue
        wanted = " or ".join(f"{one}={value}" for one, value in pairs)
        raise InputError(
            f"{where}: {name} has no effect without {wanted}; leave it out", code="no-effect"
        )


def _is_one_of(value: object, choices: Mapping[str, type[Any]]) -> bool:
    # By its name: to look through all classes would import those that load when they are asked for.
    name = getattr(value, "name", None)
    return isinstance(name, str) and name in choices and isinstance(value, choices[name])


def as_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration object as a JSON-ready mapping with its `name` first."""
    fields = {
        field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)
    }
    return {"name": config.name, **fields}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parse(what: str, text: str) -> tuple[str, dict[str, Any]]:
    name, _, tail = text.partition(":")
    return name.strip(), parsed(what if name == what else f"{what} {name}", tail)


def parsed(where: str, text: str) -> dict[str, Any]:
    """Return the options that a text such as `r=4,eps=0.1,0.2` names, values as YAML reads them.

    Numbers without a name go on with the list of the option before them.

    Args:
        where: What the options are of, for messages.
        text: Empty for none.

    Raises:
        InputError: A part is no `key=value`, a value cannot be read, or an option is given twice.
    """
    found: dict[str, Any] = {}
    key = ""
    for part in filter(None, _COMMA.split(text)):
        name, equals, raw = part.partition("=")
        if not equals and key and _NUMBER.fullmatch(part.strip()):
            before = found[key] if isinstance(found[key], list) else [found[key]]
            found[key] = [*before, _number(key, load_yaml(part))]
            continue
        key = name.strip()
        if not equals:
            raise InputError(f"{where}: expected key=value, got {part!r}")
        try:
            value = load_yaml(raw)
        except InputError as error:
            raise InputError(f"{where}: {key} {error}") from None
        if key in found:
            raise InputError(f"{where}: option {key!r} is given twice")
        found[key] = _number(key, value)
    return found


def _number(key: object, value: Any) -> Any:
    """Return a float for text such as `1e-3`, which YAML takes for a string.

    Raises:
        InputError: It is an integer beyond all floats, which Python may not even print.
    """
    if isinstance(value, int) and value.bit_length() > sys.float_info.max_exp:
        raise InputError(
            f"{key} must be a number below 1e308, got one of {value.bit_length()} bits",
            code="option",
        )
    is_number = isinstance(value, str) and _EXPONENT.fullmatch(value)
    return float(value) if is_number else value


def _build(where: str, cls: type[Any], options: Mapping[str, Any]) -> Any:
    fields = {field.name for field in dataclasses.fields(cls)}
    for key in options:
        if key not in fields:
            raise unknown_choice(f"option of {where}", str(key), fields)
    values = {key: tuple(item) if isinstance(item, list) else item for key, item in options.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from None
