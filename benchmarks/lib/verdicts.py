"""Claims of papers with our measurements, and verdicts by one rule.

A claim has one gain per seed (or layer, or repeat), paired if there is a rival. Gains above 0
support the claim.

    reproduced                 the 95 % t interval of the mean gain lies above 0
    in direction only          the mean gain is above 0, the interval is not: no clear difference
    not reproduced             the mean gain is not above 0, the interval does not lie below
    contradicted               the interval lies below 0
    too few                    fewer than three gains, unless they are exact

A single exact gain needs no interval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.lib.tables import mean_and_half, shown, table

REPRODUCED = "reproduced"
IN_DIRECTION = "in direction only"
NOT_REPRODUCED = "not reproduced"
CONTRADICTED = "contradicted"
TOO_FEW = "too few"
NOT_RUN = "not run"
_MISSING = "Not run"
FEWEST = 3
"""Minimum number of gains for a verdict."""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper with our gains.

    Attributes:
        method: Method of the paper.
        text: The claim, in terms of our measurements.
        unit: Unit of the gains.
        gains: Gains, above 0 if the claim holds.
        over: Unit of repetition, such as `seeds`.
        exact: Whether another run gives the same numbers.
        notes: Notes for the reader.
    """

    method: str
    text: str
    unit: str
    gains: tuple[float, ...]
    over: str = "seeds"
    exact: bool = False
    notes: str = ""

    @property
    def verdict(self) -> str:
        """Verdict by the rule in the module's docstring."""
        if not self.gains:
            return NOT_RUN
        if len(self.gains) < FEWEST and not self.exact:
            return TOO_FEW
        mean, half = mean_and_half(self.gains)
        if len(self.gains) == 1:
            half = 0.0
        if mean > 0:
            return REPRODUCED if mean - half > 0 else IN_DIRECTION
        return CONTRADICTED if mean + half < 0 else NOT_REPRODUCED


def claims_table(claims: Sequence[Claim]) -> str:
    """Return a table with one row per claim, its verdict and numbers, and a line on the others.

    The line names the claims without a gain.
    """
    return _table(claims, slice(None))


def claims_of_one(claims: Sequence[Claim]) -> str:
    """Return the same for a page about one method: no column names it, and none is empty."""
    return _table(claims, slice(1, None if any(claim.notes for claim in claims) else -1))


def _table(claims: Sequence[Claim], columns: slice) -> str:
    run = [claim for claim in claims if claim.gains]
    parts = [_rows(run, columns)] if run else []
    if missing := [claim.text for claim in claims if not claim.gains]:
        parts.append(f"{_MISSING} ({len(missing)}): {_joined(missing)}.")
    return "\n\n".join(parts)


def num_not_run(text: str) -> int:
    """Return the number of claims without a gain in a page of claims."""
    return sum(map(int, re.findall(rf"^{_MISSING} \((\d+)\): ", text, re.MULTILINE)))


def _joined(texts: Sequence[str]) -> str:
    """Return claims in one line, those about the same rival together."""
    by_rival: dict[str, list[str]] = {}
    for text in texts:
        what, than, rival = text.partition(" than ")
        by_rival.setdefault(than + rival, []).append(what)
    return "; ".join(f"{', '.join(what)}{rival}" for rival, what in by_rival.items())


def _rows(claims: Sequence[Claim], columns: slice) -> str:
    head = ["method", "claim", "verdict", "mean gain ± half a 95 % interval", "over", "notes"]
    rows = []
    for claim in claims:
        gain = f"{shown(claim.gains)} {claim.unit}"
        over = f"{len(claim.gains)} {claim.over}"
        if len(claim.gains) == 1 and claim.exact:
            over = claim.over
        rows.append([claim.method, claim.text, claim.verdict, gain, over, claim.notes])
    return table(head[columns], [row[columns] for row in rows])
