"""Options of conformal sets: one dataclass per score, without numpy.

The predictors inherit from these and add the fitted thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from bayeslora.option_checks import NotNegative, OnlyWith, Options, Range, Seed, Share

ALPHA = 0.1
"""Default share of labels that may be missed."""

Alpha = Annotated[Share, "Share of labels that may be outside their set."]
Classwise = Annotated[
    bool, "Whether each class has its own threshold, so that the coverage holds within every class."
]


@dataclass(eq=False)
class LACOptions(Options):
    """Options of sets by the probability of a class."""

    alpha: Alpha = ALPHA
    classwise: Classwise = False

    name: ClassVar[str] = "lac"
    summary: ClassVar[str] = "classes above a threshold on the probability; smallest sets"
    source: ClassVar[str] = "Sadinle, Lei and Wasserman 2019, arXiv 1609.00451"


@dataclass(eq=False)
class APSOptions(Options):
    """Options of adaptive prediction sets."""

    alpha: Alpha = ALPHA
    classwise: Classwise = False
    randomised: Annotated[
        bool,
        "Whether to count only a random part of a class's own probability, which makes the "
        "coverage exact and allows empty sets. Otherwise every set contains the most probable "
        "class, and the coverage is at least the accuracy.",
    ] = True
    seed: Annotated[Seed, "Seed of the random parts."] = 0

    name: ClassVar[str] = "aps"
    only_with: ClassVar[OnlyWith] = {"seed": (("randomised", True),)}
    summary: ClassVar[str] = "the most probable classes up to a total; larger sets for hard rows"
    source: ClassVar[str] = "Romano, Sesia and Candes 2020, arXiv 2006.02544"


@dataclass(eq=False)
class RAPSOptions(APSOptions):
    """Options of regularised adaptive prediction sets: those of APS and two more."""

    penalty: Annotated[
        NotNegative, "Penalty λ, added to the score of a class for each rank beyond `k_reg`."
    ] = 0.01
    k_reg: Annotated[int, Range(0), "Rank, from 1, up to which classes have no penalty."] = 1

    name: ClassVar[str] = "raps"
    summary: ClassVar[str] = "APS with a penalty on improbable classes; fewer very large sets"
    source: ClassVar[str] = "Angelopoulos, Bates, Malik and Jordan 2021, arXiv 2009.14193"


CONFORMAL: dict[str, type[Any]] = {
    options.name: options for options in (LACOptions, APSOptions, RAPSOptions)
}
"""The options of every conformal predictor by its name."""
