"""The terms of a report in plain words: the scores of the catalogue, and what they are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bayeslora.metrics.catalogue import ALL_SCORES, DETECTION_SCORES
from bayeslora.reporting.text import words


@dataclass(frozen=True)
class Term:
    """A term and its meaning, plain text, with its formula and who proposed it, if any.

    It is included if one of the scores or attributes of `Scores` in `keys` is present; always, if
    there are none.
    """

    name: str
    meaning: str
    formula: str = ""
    source: str = ""
    keys: frozenset[str] = frozenset()

    @property
    def anchor(self) -> str:
        """Its anchor on the page."""
        return f"term-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}"


def terms_for(keys: Iterable[str]) -> tuple[Term, ...]:
    """Return the terms of some keys: scores as in the catalogue, then what they are made of."""
    present = frozenset(keys)
    terms = []
    for info in (*ALL_SCORES.values(), *DETECTION_SCORES.values()):
        source = info.source if re.search(r"\d", info.source) else ""
        meaning = f"{info.meaning[0].upper()}{info.meaning[1:]}."
        details, of = info.details.replace("`", ""), {info.key}
        if info.key in DETECTION_SCORES:
            of.add("ood")
        terms.append(Term(info.title, meaning, details, source, frozenset(of)))
    terms += [Term(**{**term, "keys": frozenset(term["keys"])}) for term in words()["terms"]]
    return tuple(term for term in terms if not term.keys or term.keys & present)
