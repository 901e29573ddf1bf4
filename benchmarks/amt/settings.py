"""What the study of AMT runs on: digits as images, intents as texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bayeslora as bl
from bayeslora.data.examples import Examples
from bayeslora.data.known import load_known

PARTS = ("train", "validation", "test")
"""Classes for meta-tuning, for choices, and for scores; no class is in two parts."""


@dataclass(frozen=True)
class Setting:
    """A data set, a backbone, and how pools are tuned and scored on them.

    Attributes:
        name: Name in the results.
        backbone: Short name of the backbone.
        max_length: Maximum number of tokens or patches.
        pool: Options of a pool of three members: without an adversary, and two of growing strength.
        read: From a part and a data directory to its examples.
        eps: Radius of the attack that is scored.
        steps: Its steps.
        num_clean: Scored episodes without an attack.
        num_merged: The same where each episode has a merge of its own.
        num_attacked: Scored episodes under attack.
        rates: Learning rates to choose from on the validation classes.
        stronger: Strengths in inputs and weights, above those of the pool, to try there.
        corruption: A corruption of the texts to score as well, or None.
    """

    name: str
    backbone: str
    max_length: int
    pool: bl.AMT
    read: Callable[[str, Path | None], Examples]
    eps: float
    steps: int
    num_clean: int
    num_merged: int
    num_attacked: int
    rates: tuple[float, ...]
    stronger: tuple[float, float]
    corruption: str | None = None


def _digits(part: str, _: Path | None) -> Examples:
    digits = np.random.default_rng(0).permutation(10)
    names = sorted(map(str, np.split(digits, [5, 7])[PARTS.index(part)]))
    splits = [load_known("digits", name) for name in ("train", "validation", "test")]
    pairs = [pair for split in splits for pair in zip(split.texts, split.labels, strict=True)]
    most = None if part == "train" else 90
    chosen = [pair for name in names for pair in [p for p in pairs if p[1] == name][:most]]
    texts, labels = zip(*chosen, strict=True)
    return Examples(
        ids=texts,
        texts=texts,
        pairs=None,
        labels=labels,
        rows=tuple(range(1, len(chosen) + 1)),
        source=f"digits ({part})",
        images=True,
    )


def _intents(part: str, data_dir: Path | None) -> Examples:
    rows = load_known("clinc150", part, data_dir)
    names = np.random.default_rng(0).permutation(sorted(set(map(str, rows.labels))))
    chosen = set(np.split(names, [100, 120])[PARTS.index(part)].tolist())
    return rows.take([index for index, label in enumerate(rows.labels) if str(label) in chosen])


DIGITS = Setting(
    name="digits",
    backbone="dinov2-s",
    max_length=17,  # 56 x 56 pixels
    pool=bl.AMT(
        ways=3,
        shots=5,
        queries=4,
        num_episodes=8,
        eps=(0.0, 1 / 255, 2 / 255),
        weight_eps=(0.0, 0.005, 0.01),
    ),
    read=_digits,
    eps=1 / 255,
    steps=5,
    num_clean=200,
    num_merged=30,
    num_attacked=6,
    rates=(1e-2, 5e-2, 2e-1),
    stronger=(8 / 255, 0.01),
)
INTENTS = Setting(
    name="intents",
    backbone="minilm",
    max_length=32,
    pool=bl.AMT(
        ways=5,
        shots=5,
        queries=3,
        num_episodes=40,
        eps=(0.0, 0.05, 0.1),
        weight_eps=(0.0, 0.002, 0.005),
    ),
    read=_intents,
    eps=0.1,
    steps=10,
    num_clean=600,
    num_merged=100,
    num_attacked=12,
    rates=(2e-3, 1e-2, 5e-2),
    stronger=(0.2, 0.01),
    corruption="typos:3",
)
SETTINGS = {setting.name: setting for setting in (DIGITS, INTENTS)}
