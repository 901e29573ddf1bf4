"""Methods and their options by name: built in, registered in this process, or of packages.

A method's options are one frozen dataclass. `"vbll:prior_scale=2,link=probit"`, a mapping with a
`name` key, the bare name and the object itself are accepted interchangeably.

A package declares in its `pyproject.toml`

    [project.entry-points."bayeslora.posteriors"]
    theirs = "their_package.config:Theirs"

and `Theirs` is a frozen dataclass of options that derives from the base class of its kind. Adapters
have the group `bayeslora.adapters`, recalibrators `bayeslora.recalibrators`. See docs/extending.md.
Free of torch; packages are searched only for a name that is neither built in nor registered, and
imported only if they provide it.
"""

from __future__ import annotations

import logging
import re
from collections import UserDict
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any, TypeVar

from bayeslora._version import __version__
from bayeslora.errors import InputError, located, unknown_choice
from bayeslora.io import load_yaml
from bayeslora.option_checks import option_names
from bayeslora.plain_text import quoted

T = TypeVar("T")

logger = logging.getLogger(__name__)

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
# Commas between options, not those inside brackets.
_COMMA = re.compile(r",(?![^\[({]*[\])}])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class BuiltIn(UserDict[str, Any]):
    """Classes of this package by name, imported when they are used.

    Attributes:
        data: Module and class of each, as `module:Class`.
    """

    def __getitem__(self, name: str) -> type[Any]:
        """Return the class of a name."""
        loaded: type[Any] = resolve_name(self.data[name])
        return loaded


class Catalogue(Mapping[str, type[Any]]):
    """Classes of options of one kind of method, by name.

    Attributes:
        kind: `posterior`, `adapter` or `recalibrator`.
        group: Group of the entry points.
        built_in: The methods of this package.
        registered: The methods registered in this process, changed only by `register`.

    Args:
        kind: Kind of the methods.
        built_in: The methods of this package.
        base: Class that those of other packages derive from.
    """

    def __init__(self, kind: str, built_in: Mapping[str, type[Any]], base: type[Any]) -> None:
        self.kind = kind
        self.group = f"bayeslora.{kind}s"
        self.built_in = built_in
        self.registered: dict[str, type[Any]] = {}
        self._base = base

    def __getitem__(self, name: str) -> type[Any]:
        """Return the class of a name, importing only the package that provides it.

        Raises:
            InputError: The package is broken.
        """
        known = self.built_in.get(name) or self.registered.get(name)
        return known or self._loaded(self._offers()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.built_in, *self.registered, *self._offers()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _offers(self) -> dict[str, EntryPoint]:
        """Return the methods of installed packages by name, without imports."""
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def _loaded(self, entry: EntryPoint) -> type[Any]:
        """Return the class of a package's options.

        Raises:
            InputError: It cannot be imported, or does not derive from the base class.
        """
        try:
            return self._derived(entry.load())
        except Exception as error:  # importing a foreign module may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"{self.kind} {entry.name!r} of package {_package(entry)} cannot be loaded: "
                f"{entry.value!r}: {reason}",
                code="package",
            ) from error

    def _derived(self, config: Any) -> type[Any]:
        """Return a class of another package, which must derive from our base class.

        Raises:
            InputError: It does not.
        """
        if not (isinstance(config, type) and issubclass(config, self._base)):
            raise InputError(
                f"{config!r} must be a class that derives from {self._base.__module__}."
                f"{self._base.__qualname__}",
                code="package",
            )
        return config

    def register(self, config: type[T]) -> type[T]:
        """Register a class by its name for this process, instead of an earlier one of this name.

        Raises:
            InputError: It does not derive from the base class, or its name is built in.
        """
        checked = self._derived(config)
        if checked.name in self.built_in:
            raise InputError(
                f"{self.kind} {checked.name!r} is built in; choose another name", code="package"
            )
        self.registered[checked.name] = checked
        return config

    def resolve(self, value: object) -> Any:
        """Return the options given by a name, `name:key=value,…`, a mapping or an object.

        Raises:
            InputError: The name, an option or its value is not allowed, or the package that
                provides the method is broken.
        """
        return resolve(self.kind, value, self)

    def provider(self, config: Any) -> dict[str, str]:
        """Return name and version of a method's package; empty for built-in and registered ones."""
        if config.name in self.built_in or config.name in self.registered:
            return {}
        dist = self._offers()[config.name].dist
        return {} if dist is None else {dist.name: dist.version}

    def listed(self) -> list[tuple[type[Any], str]]:
        """Return every valid method with its package, or the module that registered it.

        Logs a warning for each package with an invalid one.
        """
        package = f"bayeslora {__version__}"
        methods = [(config, package) for config in self.built_in.values()]
        methods += [(config, config.__module__) for config in self.registered.values()]
        for name, entry in self._offers().items():
            if name not in self.built_in and name not in self.registered:
                try:
                    methods.append((self[name], _package(entry)))
                except InputError as error:
                    logger.warning("%s", error)
        return methods


def _package(entry: EntryPoint) -> str:
    """Return name and version of an entry point's package, such as `acme-methods 1.0`."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


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
    name = getattr(value, "name", None)
    # Looked up by name: iterating over all classes would import the lazily loaded ones.
    if isinstance(name, str) and name in choices and isinstance(value, choices[name]):
        return value
    if isinstance(value, str):
        name, _, text = value.partition(":")
        name = name.strip()
    elif isinstance(value, Mapping) and "name" in value:
        name = str(value["name"])
    else:
        raise InputError(
            f"{kind} must be a name, a mapping with a 'name', or an object of a registered class "
            f"(bayeslora.register_{kind}), got {value!r}",
            code="option",
        )
    if name not in choices:
        raise unknown_choice(kind, name, choices)
    cls = choices[name]
    with located(f"{kind} {quoted(name)}", kind):
        if isinstance(value, Mapping):
            chosen = {key: _number(item) for key, item in value.items() if key != "name"}
        else:
            chosen = parsed(text)
        for key in chosen:
            if key not in option_names(cls):
                raise unknown_choice("option", str(key), option_names(cls))
        return cls(**chosen)


def as_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration object as a JSON-ready mapping with its `name` first."""
    values = {name: getattr(config, name) for name in option_names(type(config))}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return {"name": config.name, **values, **lists}


def parsed(text: str) -> dict[str, Any]:
    """Return the options in a text such as `r=4,eps=0.1,0.2`, with values parsed as YAML.

    Numbers without a name continue the list of the preceding option.

    Args:
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
            options[key] = [*values, _number(load_yaml(part))]
            continue
        key = name.strip()
        if not equals or not raw.strip():
            raise InputError(f"expected key=value, got {part.strip()!r}")
        if key in options:
            raise InputError(f"option {key!r} is given twice")
        with located(key):
            options[key] = _number(load_yaml(raw))
    return options


def _number(value: Any) -> Any:
    """Return a float for text such as `1e-3`, which YAML reads as a string."""
    is_number = isinstance(value, str) and _EXPONENT.fullmatch(value)
    return float(value) if is_number else value
