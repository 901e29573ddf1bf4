"""Configuration objects, also written as strings and mappings.

A method's options are one frozen dataclass. `"vbll:prior_scale=2,bound=jensen"`, a mapping with a
`name` key, the bare name and the object itself are accepted interchangeably.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from bayeslora.errors import InputError, located, unknown_choice
from bayeslora.io.files import load_yaml
from bayeslora.option_checks import option_names
from bayeslora.plain_text import quoted

T = TypeVar("T")

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
# Commas between options, not those inside brackets.
_COMMA = re.compile(r",(?![^\[({]*[\])}])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def resolve(kind: str, value: object, choices: Mapping[str, type[Any]]) -> Any:
    """Return the configuration object described by `value`.

    Args:
        kind: Kind of configuration, for messages: `adapter`, `posterior`.
        value: An instance of a class in `choices`, a name, `name:key=value,…`, or a mapping.
        choices: Configuration classes by name.

    Raises:
        InputError: The name, an option or an option's value is not allowed.

    Example:
        >>> from bayeslora.posteriors.registry import POSTERIORS
        >>> resolve("posterior", "map:prior_scale=3", POSTERIORS)
        MAP(prior_scale=3)
        >>> resolve("posterior", {"name": "map"}, POSTERIORS)
        MAP(prior_scale=2.0)
    """
    if _is_one_of(value, choices):
        return value
    if isinstance(value, str):
        name, _, text = value.partition(":")
        name = name.strip()
        chosen = parsed(_owner(kind, name), text)
    elif isinstance(value, Mapping):
        if "name" not in value:
            raise InputError(f"{kind} needs a 'name' besides its options, got {dict(value)!r}")
        chosen = {key: _number(key, item) for key, item in value.items() if key != "name"}
        name = str(value["name"])
    else:
        allowed = ", ".join(sorted(choices))
        raise InputError(
            f"{kind} must be a name or an object ({allowed}), got {value!r}", code="option"
        )
    if name not in choices:
        raise unknown_choice(kind, name, choices)
    owner, cls = _owner(kind, name), choices[name]
    names = option_names(cls)
    retired: Mapping[str, str] = getattr(cls, "retired", {})
    for key in chosen:
        if key in retired:
            raise InputError(
                f"{owner} has no option {quoted(key)} any more: {retired[key]}; leave it out",
                code="unknown",
            )
        if key not in names:
            raise unknown_choice(f"option of {owner}", str(key), names)
    with located(kind if name == kind else f"{kind} {quoted(name)}"):
        config = cls(**chosen)
    if isinstance(value, str):  # typed by a user; records and mappings state all options
        refuse_idle(owner, config, chosen)
    return config


def _owner(kind: str, name: str) -> str:
    """Return the owner of options, for messages; one that is alone of its kind is the kind."""
    return kind if name == kind else f"{kind} {name}"


def refuse_idle(owner: str, config: Any, names: Iterable[str]) -> None:
    """Raise InputError if an option that was set has no effect beside the others.

    Args:
        owner: Owner of the options, for the message.
        config: The options. `only_with` of its class lists options that need another: by the
            option's name, pairs of another's name and value, any of which suffices.
        names: The options that were set; defaults are allowed.
    """
    needs: Mapping[str, tuple[tuple[str, object], ...]] = getattr(config, "only_with", {})
    for name in names:
        pairs = needs.get(name, ())
        is_default = getattr(config, name) == getattr(type(config), name, None)
        has_effect = any(getattr(config, option) == value for option, value in pairs)
        if pairs and not is_default and not has_effect:
            requirement = " or ".join(f"{option}={value}" for option, value in pairs)
            message = f"{owner}: {name} has no effect without {requirement}; leave it out"
            raise InputError(message, code="no-effect")


def _is_one_of(value: object, choices: Mapping[str, type[Any]]) -> bool:
    # Looked up by name: iterating over all classes would import the lazily loaded ones.
    name = getattr(value, "name", None)
    return isinstance(name, str) and name in choices and isinstance(value, choices[name])


def as_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration object as a JSON-ready mapping with its `name` first."""
    values = {name: getattr(config, name) for name in option_names(type(config))}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return {"name": config.name, **values, **lists}


def parsed(owner: str, text: str) -> dict[str, Any]:
    """Return the options in a text such as `r=4,eps=0.1,0.2`, with values parsed as YAML.

    Numbers without a name continue the list of the preceding option.

    Args:
        owner: Owner of the options, for messages.
        text: The options; may be empty.

    Raises:
        InputError: A part is not `key=value`, a value cannot be read, or an option occurs twice.
    """
    options: dict[str, Any] = {}
    key = ""
    for part in filter(None, _COMMA.split(text)):
        name, equals, raw = part.partition("=")
        if not equals and key and _NUMBER.fullmatch(part.strip()):
            values = options[key] if isinstance(options[key], list) else [options[key]]
            options[key] = [*values, _number(key, load_yaml(part))]
            continue
        key = name.strip()
        if not equals or not raw.strip():
            raise InputError(f"{owner}: expected key=value, got {part.strip()!r}")
        if key in options:
            raise InputError(f"{owner}: option {key!r} is given twice")
        with located(f"{owner}: {key}"):
            options[key] = _number(key, load_yaml(raw))
    return options


def _number(key: object, value: Any) -> Any:
    """Return a float for text such as `1e-3`, which YAML reads as a string.

    Raises:
        InputError: It is an integer too large for a float, which Python may not even print.
    """
    if isinstance(value, int) and value.bit_length() > sys.float_info.max_exp:
        raise InputError(
            f"{key} must be a number below 1e308, got an integer of {value.bit_length()} bits",
            code="option",
        )
    is_number = isinstance(value, str) and _EXPONENT.fullmatch(value)
    return float(value) if is_number else value
