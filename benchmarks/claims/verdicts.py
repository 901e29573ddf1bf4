"""Claims of a paper with our gains, and verdicts by one rule.

A claim has one gain per pair of fits (or per fit or seed). Gains above 0 support the claim.

    reproduced                 the 95 % t interval of the mean gain lies above 0
    in direction only          the mean gain is above 0, the interval is not: no clear difference
    not reproduced             the mean gain is not above 0, the interval does not lie below
    contradicted               the interval lies below 0
    too few                    fewer than three gains
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lib.results import Row
from benchmarks.lib.tables import mean_and_half, shown, table

REPRODUCED = "reproduced"
IN_DIRECTION = "in direction only"
NOT_REPRODUCED = "not reproduced"
CONTRADICTED = "contradicted"
TOO_FEW = "too few"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, IN_DIRECTION, NOT_REPRODUCED, CONTRADICTED, TOO_FEW, NOT_RUN)
MARKS = dict(zip(VERDICTS, ("✓", "↑", "↓", "✗", "?", ""), strict=True))
FEWEST = 3
"""Minimum number of gains for a verdict."""
SCORES = {
    "accuracy": ("higher accuracy", "", -1),
    "nll": ("lower NLL", "nats", 1),
    "ece": ("lower ECE", "", 1),
}
"""By score: what is claimed, its unit, and the sign of the rival's less ours."""

Cells = Mapping[tuple[Any, ...], Row]
"""Scores by the columns that a pair shares, then the method."""


@dataclass(frozen=True)
class Claim:
    """A claim with our gains.

    Attributes:
        text: The claim, in terms of our measurements.
        unit: Unit of the gains.
        gains: Gains, above 0 if the claim holds.
        over: Unit of repetition.
        notes: Notes for the reader.
    """

    text: str
    unit: str
    gains: Sequence[float]
    over: str = "pairs"
    notes: str = ""

    @property
    def verdict(self) -> str:
        """Verdict by the rule in the module's docstring."""
        if len(self.gains) < FEWEST:
            return TOO_FEW if self.gains else NOT_RUN
        mean, half = mean_and_half(self.gains)
        if mean > 0:
            return REPRODUCED if mean - half > 0 else IN_DIRECTION
        return CONTRADICTED if mean + half < 0 else NOT_REPRODUCED


def gains(
    cells: Cells, ours: str, theirs: str, gain: Callable[[Row, Row], float]
) -> Sequence[float]:
    """Return the gain of each pair of cells that differ in the method alone."""
    return tuple(
        gain(row, cells[*key, theirs])
        for (*key, method), row in sorted(cells.items())
        if method == ours and (*key, theirs) in cells
    )


def better(cells: Cells, ours: str, theirs: str, rival: str, notes: str = "") -> Iterable[Claim]:
    """Yield the claims that each score is better than a rival's, called `rival` in the text."""
    for score, (words, unit, sign) in SCORES.items():
        differences = gains(cells, ours, theirs, lambda a, b, k=score, s=sign: s * (b[k] - a[k]))
        yield Claim(f"{words} than {rival}", unit, differences, notes=notes)


def claims_table(claims: Sequence[Claim]) -> str:
    """Return a table of the clear claims, a row per rival, and a list of the others.

    Claims with too few gains are left out; the text may be empty.
    """
    rows: dict[str, dict[str, Claim]] = {}
    for claim in claims:
        if len(claim.gains) >= FEWEST:
            what, _, rival = claim.text.partition(" than ")
            label = rival if what in _NAMES else claim.text
            label = f"{label} ({claim.notes})" if claim.notes else label
            rows.setdefault(label, {})[_NAMES.get(what, "NLL")] = claim
    clear = {label: group for label, group in rows.items() if any(map(_is_clear, group.values()))}
    parts = []
    if clear:
        scores = [name for name in _COLUMNS if any(name in group for group in clear.values())]
        head = ["rival, or claim", "NLL, or gain", *scores[1:], "over"]
        parts.append(
            table(head, [[label, *_cells(group, scores)] for label, group in clear.items()])
        )
    if others := [label for label in rows if label not in clear]:
        gains = [(label, rows[label]["NLL"].gains) for label in others]
        lines = [f"- {label}: {shown(values)} ({len(values)})" for label, values in gains]
        parts += ["No clear difference (gain, number of pairs):", "\n".join(lines)]
    return "\n\n".join(parts)


_COLUMNS = ("NLL", "accuracy", "ECE")
_NAMES = {words: words.split()[1] for words, *_ in SCORES.values()}


def _is_clear(claim: Claim) -> bool:
    return claim.verdict in (REPRODUCED, CONTRADICTED)


def _cells(claims: Mapping[str, Claim], scores: Sequence[str]) -> list[str]:
    """Return the cells of a row: marks and gains, and what the gains are over."""
    cells = []
    for name in scores:
        claim = claims.get(name)
        gain = shown(claim.gains) if claim and (_is_clear(claim) or name == "NLL") else ""
        cells.append(f"{MARKS[claim.verdict]} {gain}".strip() if claim else "")
    claim = claims["NLL"]
    return [*cells, f"{len(claim.gains)} {claim.over}"]
