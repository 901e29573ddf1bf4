"""Methods by name: built in, registered in this process, or offered by installed packages.

A package declares in its `pyproject.toml`

    [project.entry-points."bayeslora.posteriors"]
    theirs = "their_package.config:Theirs"

and `Theirs` is a frozen dataclass of options that derives from the base class of its kind. Adapters
have the group `bayeslora.adapters`, recalibrators `bayeslora.recalibrators`. See docs/extending.md.
Free of torch; packages are searched only for a name that is neither built in nor registered, and
imported only if they provide it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import UserDict
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any, TypeVar

from bayeslora import options
from bayeslora._version import __version__
from bayeslora.errors import InputError

T = TypeVar("T")

logger = logging.getLogger(__name__)


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
            InputError: The package is broken, or several packages offer the name.
        """
        known = self.built_in.get(name) or self.registered.get(name)
        if known is not None:
            return known
        offers = self.offers(name=name)
        if not offers:
            raise KeyError(name)
        if len(offers) > 1:
            packages = ", ".join(map(_package, offers))
            raise InputError(
                f"{self.kind} {name!r} is provided by several packages: {packages}", code="package"
            )
        return self._loaded(offers[0])

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self.registered or bool(self.offers(name=name))

    def __iter__(self) -> Iterator[str]:
        theirs = (offer.name for offer in self.offers())
        return iter(dict.fromkeys([*self.built_in, *self.registered, *theirs]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def offers(self, **name: Any) -> list[EntryPoint]:
        """Return the methods of installed packages, or those with a `name`, without imports."""
        entries = entry_points(group=self.group).select(**name)
        return sorted(entries, key=lambda entry: (entry.name, _package(entry)))

    def _loaded(self, entry: EntryPoint) -> type[Any]:
        """Return the class of a package's options.

        Raises:
            InputError: It cannot be imported, does not derive from the base class, or has another
                name.
        """
        origin = f"{self.kind} {entry.name!r} of package {_package(entry)}"
        try:
            loaded = entry.load()
        except Exception as error:  # importing a foreign module may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"{origin} cannot be loaded: {entry.value!r}: {reason}", code="package"
            ) from error
        config = _derived(loaded, self._base, origin)
        if config.name != entry.name:
            raise InputError(
                f"{origin}: class {entry.value!r} has the name {config.name!r}; the two names "
                "must be equal",
                code="package",
            )
        return config

    def register(self, config: type[T]) -> type[T]:
        """Register a class by its name for this process; the same class may be registered again.

        Raises:
            InputError: It does not derive from the base class, or its name is taken.
        """
        checked = _derived(config, self._base, f"{self.kind} {getattr(config, 'name', config)!r}")
        name: str = checked.name
        if name in self.built_in:
            raise InputError(
                f"{self.kind} {name!r} is built in; choose another name", code="package"
            )
        known = self.registered.get(name)
        if known is not None and _place(known) != _place(config):
            raise InputError(
                f"{self.kind} {name!r} is already registered by {_place(known)}", code="package"
            )
        self.registered[name] = checked
        return config

    def resolve(self, value: object) -> Any:
        """Return the options given by a name, `name:key=value,…`, a mapping or an object.

        Raises:
            InputError: The name, an option or its value is not allowed, or the package that
                provides the method is broken.
        """
        name = getattr(value, "name", None)
        if (
            dataclasses.is_dataclass(value)
            and not isinstance(value, type)
            and isinstance(name, str)
        ):
            known = self.get(name)
            if known is None or not isinstance(value, known):
                raise InputError(
                    f"{self.kind} {name!r}: class {_place(type(value))} is not registered; give "
                    f"it a unique name and call bayeslora.register_{self.kind} on it",
                    code="package",
                )
        return options.resolve(self.kind, value, self)

    def stored(self, record: Mapping[str, Any] | None) -> Any:
        """Return the options of a saved model's method.

        Args:
            record: Name and options.

        Raises:
            InputError: No installed package provides it, or an option is not allowed.
        """
        if record is None:
            return options.resolve(self.kind, None, self)
        name = str(record.get("name"))
        if name not in self:
            raise InputError(
                f"the model's {self.kind} {name!r} is not built in and no installed package "
                "provides it; install the package that does, or call "
                f"bayeslora.register_{self.kind} on its class",
                code="package",
            )
        return options.resolve(self.kind, self[name].from_record(record), self)

    def provider(self, config: Any) -> dict[str, str]:
        """Return name and version of a method's package; empty for built-in and registered ones."""
        if config.name in self.built_in or config.name in self.registered:
            return {}
        dists = (entry.dist for entry in self.offers(name=config.name))
        return {dist.name: dist.version for dist in dists if dist is not None}

    def listed(self) -> list[tuple[type[Any], str]]:
        """Return every valid method with its package, or the module that registered it.

        Logs a warning for each package with an invalid one.
        """
        package = f"bayeslora {__version__}"
        methods = [(config, package) for config in self.built_in.values()]
        methods += [(config, config.__module__) for config in self.registered.values()]
        for entry in self.offers():
            if entry.name in self.built_in:
                logger.warning(
                    *(
                        "%s %r of package %s is not used: a built-in %s has the same name",
                        self.kind,
                    ),
                    *(entry.name, _package(entry), self.kind),
                )
            elif entry.name not in self.registered:
                try:
                    methods.append((self[entry.name], _package(entry)))
                except InputError as error:
                    logger.warning("%s", error)
        return methods


def _package(entry: EntryPoint) -> str:
    """Return name and version of an entry point's package, such as `acme-methods 1.0`."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def _derived(candidate: Any, base: type[Any], origin: str) -> type[Any]:
    """Return a class of another package, which must derive from a base class of ours.

    Raises:
        InputError: It does not.
    """
    if not (isinstance(candidate, type) and issubclass(candidate, base)):
        raise InputError(
            f"{origin} must be a class that derives from {_place(base)}, got {candidate!r}",
            code="package",
        )
    return candidate


def _place(config: type[Any]) -> str:
    return f"{config.__module__}.{config.__qualname__}"
