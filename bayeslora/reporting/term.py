"""What the glossary is made of."""

from __future__ import annotations

from dataclasses import dataclass

from bayeslora.reporting.formulas import Formula

UNFAMILIAR = "ood"
"""The key of terms that are about out-of-distribution sets."""

NEAR_AND_FAR = "ood_groups"
"""The key of terms that are about kinds of such sets."""

BY_CHANCE = "calibration_p"
"""The key of terms that are about calibration errors by chance."""

SPECTRUM = "spectrum"
"""The key of terms that are about the changes of adapters."""


@dataclass(frozen=True)
class Term:
    """A term and its meaning.

    Attributes:
        name: What the tables call it.
        meaning: What it says, plain text.
        formulas: How it is made; empty where words say it.
        source: Who proposed it; empty where it is common property.
        keys: The term is there where one of these scores is; always, where there are none.
    """

    name: str
    meaning: str
    formulas: tuple[Formula, ...] = ()
    source: str = ""
    keys: frozenset[str] = frozenset()
