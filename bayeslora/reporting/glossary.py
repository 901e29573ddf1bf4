"""The terms of a report in plain words, with how each number is made and who proposed it."""

from __future__ import annotations

from collections.abc import Iterable

from bayeslora.reporting.glossary_adapters import ADAPTER_TERMS
from bayeslora.reporting.glossary_quality import QUALITY_TERMS
from bayeslora.reporting.glossary_use import USE_TERMS
from bayeslora.reporting.term import Term

TERMS = (*QUALITY_TERMS, *USE_TERMS, *ADAPTER_TERMS)
"""The terms in the order they appear."""


def terms_for(keys: Iterable[str]) -> tuple[Term, ...]:
    """Return the terms behind some scores, in order.

    Args:
        keys: Keys of scores; `UNFAMILIAR` where there are out-of-distribution sets, `SPECTRUM`
            where there are adapters.
    """
    present = frozenset(keys)
    return tuple(term for term in TERMS if not term.keys or term.keys & present)
