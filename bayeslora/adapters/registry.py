"""Every adapter by the name that the command line uses; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.corda.adapter import CorDA
from bayeslora.adapters.frozen import Frozen
from bayeslora.adapters.lisa.adapter import LISA
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar.adapter import PoLAR
from bayeslora.adapters.s2ft.adapter import S2FT

ADAPTERS: Mapping[str, type[Adapter]] = {
    cls.name: cls for cls in (LoRA, PoLAR, PiSSA, CorDA, S2FT, LISA, Frozen)
}
"""The adapters that are built in."""


def table_name(recorded: Mapping[str, Any]) -> str:
    """Return what tables and reports call an adapter.

    Args:
        recorded: Its options as they are in a model's record.
    """
    name = str(recorded["name"])
    return ADAPTERS[name].table_name(recorded) if name in ADAPTERS else name
