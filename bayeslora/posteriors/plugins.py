"""Posteriors that installed packages offer: found by entry points, loaded one by one, checked.

A package says in its `pyproject.toml`

    [project.entry-points."bayeslora.posteriors"]
    theirs = "their_package.config:Theirs"

and `Theirs` is a frozen dataclass of options, like those in `bayeslora.posteriors.config`. See
docs/extending.md. Free of torch, and nothing is looked for before a name is asked for.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bayeslora.errors import InputError
from bayeslora.posteriors.base import Posterior, completed

GROUP = "bayeslora.posteriors"

_TEXTS = ("name", "summary", "source", "passes", "parameters")
_NAME = re.compile(r"[a-z][a-z0-9_]*")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A posterior of an installed package, not loaded yet.

    Attributes:
        entry: Its entry point.
    """

    entry: EntryPoint

    @property
    def name(self) -> str:
        """The posterior's name."""
        return self.entry.name

    @property
    def package(self) -> str:
        """Name and version of the package, such as `acme-posteriors 1.0`."""
        dist = self.entry.dist
        return "an unknown package" if dist is None else f"{dist.name} {dist.version}"

    def load(self) -> type[Any]:
        """Return the class of its options.

        Raises:
            InputError: It cannot be imported, or is not what such a class must be.
        """
        where = f"posterior {self.name!r} of package {self.package}"
        try:
            found = self.entry.load()
        except Exception as error:  # importing a foreign module may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{where} cannot be loaded: {self.entry.value!r}: {reason}") from error
        checked = check_options_class(found, where)
        if checked.name != self.name:
            raise InputError(f"{where} calls itself {checked.name!r} in {self.entry.value!r}")
        return completed(checked)


def offers() -> list[Offer]:
    """Return what installed packages offer, in the order of names; nothing is imported."""
    try:
        found = entry_points(group=GROUP)
    except Exception as error:  # one damaged file in any package is enough
        logger.warning("the entry points of the installed packages cannot be read: %s", error)
        return []
    return sorted(map(Offer, found), key=lambda offer: (offer.name, offer.package))


def check_options_class(found: Any, where: str) -> type[Any]:
    """Return the class if it can stand for a posterior.

    Args:
        found: What should be a frozen dataclass with the class variables `name`, `summary`,
            `source`, `passes`, `parameters` (text) and `head` (`module:object`, or the object). A
            subclass of `Posterior` that defines `make_head` or `over_weights` needs no `head`.
        where: What it is and whose, for messages.

    Raises:
        InputError: It is something else; the message says what is missing.
    """
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise InputError(f"{where} must be a frozen dataclass of options, got {found!r}")
    fields = {field.name for field in dataclasses.fields(found)}
    if not found.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise InputError(f"{where}: dataclass {found.__name__} must be frozen")
    lacking = [
        name for name in _TEXTS if name in fields or not isinstance(getattr(found, name, None), str)
    ]
    head = getattr(found, "head", None)
    has_head = callable(head) or (isinstance(head, str) and ":" in head)
    if "head" in fields or not (has_head or _defines(found, "make_head", "over_weights")):
        lacking.append("head")
    if lacking:
        names = ", ".join(map(repr, lacking))
        raise InputError(
            f"{where}: {found.__name__} lacks the class variables {names}; they are text "
            "(ClassVar[str]), and head is 'module:object' or what makes the last layer itself"
        )
    has_moment = getattr(found, "over_trained", False) or getattr(found, "from_start", "")
    if _defines(found, "over_weights") and not has_moment:
        raise InputError(
            f"{where}: {found.__name__} is over the weights of a network, so it has to say "
            "over_trained = True if it is fitted to adapters that are trained already, or in "
            "from_start why it cannot be"
        )
    _check_use(found, where)
    return found


def _defines(found: type[Any], *hooks: str) -> bool:
    """Return whether a class derives from `Posterior` and has a hook of its own."""
    return issubclass(found, Posterior) and any(
        getattr(found, hook) is not getattr(Posterior, hook) for hook in hooks
    )


def _check_use(found: type[Any], where: str) -> None:
    """Complain about a name that cannot be written in `name:key=value`, or missing defaults."""
    if not _NAME.fullmatch(found.name):
        raise InputError(
            f"{where}: name must be lower-case letters, digits and underscores, got {found.name!r}"
        )
    try:
        found()
    except Exception as error:
        raise InputError(
            f"{where}: every option needs a default that is allowed, but {found.__name__}() "
            f"raises {type(error).__name__}: {error}"
        ) from error
