"""Registry of adapters by name: built in, registered, or from an installed package."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TypeVar

from bayeslora.adapters.base import Adapter
from bayeslora.options import BuiltIn, Catalogue

T = TypeVar("T")

ADAPTERS = BuiltIn(
    {
        "lora": "bayeslora.adapters.lora:LoRA",
        "polar": "bayeslora.adapters.polar:PoLAR",
        "pissa": "bayeslora.adapters.pissa:PiSSA",
        **resolve_name("bayeslora.contrib:ADAPTERS"),
        "none": "bayeslora.adapters.frozen:Frozen",
    }
)
"""The built-in adapters."""

DEFAULT_ADAPTER = "polar"

CATALOGUE = Catalogue("adapter", ADAPTERS, Adapter)
"""Every adapter by name, including those of other packages."""

resolve_adapter = CATALOGUE.resolve
provider = CATALOGUE.provider


def no_adapter() -> Adapter:
    """Return options that train nothing; the feature of a text is its last token."""
    config: Adapter = ADAPTERS["none"](pooling="last")
    return config


def register_adapter(config: type[T]) -> type[T]:
    """Register a custom adapter under its name for this process; usable as a decorator.

    A package registers with an entry point instead, without a call: see docs/extending.md.

    Args:
        config: A frozen dataclass that derives from `bayeslora.adapters.base.Adapter`. It replaces
            a class registered before under the same module and class name.

    Returns:
        The class itself.

    Raises:
        InputError: It is not such a class, or its name is taken.
    """
    return CATALOGUE.register(config)
