"""The catalogue of scores: key, meaning, direction, bounds, interval and source of each.

`catalogue.toml` holds them; tables, help and documentation use them in this order.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bayeslora.errors import InputError, unknown_choice

Kind = Literal["share", "mean", "other"]
"""How a score is computed from rows: a share of them, another mean over them, or neither."""


@dataclass(frozen=True)
class ScoreInfo:
    """Description of a score.

    Attributes:
        key: Its key in `Scores` and in JSON.
        title: Its name in tables.
        meaning: One-line description.
        source: Source of the printed computation, or of the definition.
        goal: Best value: ∞ if higher is better, −∞ if lower is better, 0 if zero is best; None
            without a direction.
        low: Lowest possible value.
        high: Highest possible value; ∞ stands for the number of classes.
        reflected: Whether noise only increases (or only decreases) it, so that its interval is the
            reflected one.
        listed: Whether tables show it by default.
        kind: How it is computed from rows; decides its interval if resamples do not vary.
        percent: Percentage of the rows it is computed on.
        details: Formula and conventions, for the documentation.
    """

    key: str
    title: str
    meaning: str
    source: str
    goal: float | None = None
    low: float = 0.0
    high: float = 1.0
    reflected: bool = False
    listed: bool = True
    kind: Kind = "other"
    percent: int = 100
    details: str = ""

    @property
    def arrow(self) -> str:
        """`↑` if higher is better, `↓` if lower is, `→0` if zero is; empty without a direction."""
        return {None: "", 0.0: "→0"}.get(self.goal, "↑" if (self.goal or 0) > 0 else "↓")

    def loss(self, value: float) -> float:
        """Return a value as a loss, of which less is better; for scores with a goal."""
        if self.goal == 0:
            return abs(value)
        return -value if self.goal == math.inf else value

    def bounds(self, num_classes: int) -> tuple[float, float]:
        """Return the lowest and the highest possible value for a number of classes."""
        return self.low, self.high if math.isfinite(self.high) else float(num_classes)


def _read() -> dict[str, dict[str, ScoreInfo]]:
    """Return the scores of each table of `catalogue.toml` by key, in order."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {
        table: {key: ScoreInfo(key, **fields) for key, fields in entries.items()}
        for table, entries in tomllib.loads(text).items()
    }


_TABLES = _read()

SCORES: Mapping[str, ScoreInfo] = _TABLES["labelled"]
"""All scores of labelled predictions by key, in order."""

SCORE_KEYS = tuple(SCORES)
"""The keys of `Scores`, in order."""

SET_SCORES: Mapping[str, ScoreInfo] = _TABLES["sets"]
"""All scores of prediction sets by key, in order."""

DETECTION_SCORES: Mapping[str, ScoreInfo] = _TABLES["detection"]
"""All scores of out-of-distribution detection by key, in order."""

ALL_SCORES: Mapping[str, ScoreInfo] = {**SCORES, **SET_SCORES}
"""Scores of labelled predictions, then of prediction sets."""

REFLECTED = frozenset(key for key, info in SCORES.items() if info.reflected)
"""Scores with reflected intervals, because noise changes them in one direction only."""

UNLABELLED_KEYS = ("mean_confidence", "sharpness")
"""Scores that need no labels."""


def chosen_keys(names: Sequence[str], known: Iterable[str] = SCORES) -> tuple[str, ...]:
    """Return the distinct chosen keys, in the given order.

    Args:
        names: Chosen keys.
        known: Allowed keys.

    Raises:
        InputError: There are no keys, or one is unknown.
    """
    allowed = tuple(known)
    for name in names:
        if name not in allowed:
            raise unknown_choice("score", name, allowed)
    if not names:
        raise InputError(f"name at least one score; choose from {', '.join(allowed)}")
    return tuple(dict.fromkeys(names))
