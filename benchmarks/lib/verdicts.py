"""Claims of papers with numbers of our own, and verdicts by one rule.

A claim comes with gains, one a seed (or layer, or repeat), paired where there is a rival: above 0
where it holds.

    reproduced                 the 95 % t interval of the mean gain lies above 0
    reproduced in direction    the mean gain is above 0, the interval is not
    not reproduced             the mean gain is not above 0, the interval does not lie below
    contradicted               the interval lies below 0
    too few                    fewer than three gains, of what varies

What does not vary needs no interval: one gain decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.lib.tables import mean_and_half, shown, table

REPRODUCED = "reproduced"
IN_DIRECTION = "reproduced in direction"
NOT_REPRODUCED = "not reproduced"
CONTRADICTED = "contradicted"
TOO_FEW = "too few"
NOT_RUN = "not run"
FEWEST = 3
"""Gains, such as seeds, below which nothing is said."""


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what we found.

    Attributes:
        method: The paper's.
        text: What it says, in terms of what was measured here.
        unit: Of the gains.
        gains: Above 0 where the claim holds.
        over: What the gains are one of.
        exact: Whether running it again gives the same numbers.
        notes: What a reader has to know besides.
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
        """The verdict by the rule in the module's docstring."""
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
    """Return one row a claim: the verdict and the numbers it was computed from."""
    head = ["method", "claim", "verdict", "mean gain ± half a 95 % interval", "over", "notes"]
    rows = []
    for claim in claims:
        gain = f"{shown(claim.gains)} {claim.unit}" if claim.gains else ""
        over = f"{len(claim.gains)} {claim.over}" if claim.gains else ""
        if len(claim.gains) == 1 and claim.exact:
            over = claim.over
        rows.append([claim.method, claim.text, claim.verdict, gain, over, claim.notes])
    return table(head, rows)
