"""Options of conformal sets: one dataclass per score, without numpy.

The predictors inherit from these and add the fitted thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from bayeslora.option_checks import NotNegative, OnlyWith, Options, Range, Seed, Share

ALPHA = 0.1
"""Default share of labels that may be missed."""

Alpha = Annotated[Share, "The share of labels that may be missed."]
Classwise = Annotated[
    bool, "One threshold per class, so that the coverage holds within every class."
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
        "Let a random part of a class's own probability count, which makes the coverage exact and "
        "lets sets be empty. Without it every set holds the most probable class, and the coverage "
        "is at least the accuracy.",
    ] = True
    seed: Annotated[Seed, "Of the random parts."] = 0

    name: ClassVar[str] = "aps"
    only_with: ClassVar[OnlyWith] = {"seed": (("randomised", True),)}
    summary: ClassVar[str] = "the most probable classes up to a total; larger where rows are hard"
    source: ClassVar[str] = "Romano, Sesia and Candes 2020, arXiv 2006.02544"


@dataclass(eq=False)
class RAPSOptions(APSOptions):
    """Options of regularised adaptive prediction sets: those of APS and two more."""

    penalty: Annotated[
        NotNegative, "λ, added to the score of a class for each place below `k_reg`."
    ] = 0.01
    k_reg: Annotated[
        int, Range(0), "Place, from 1, down to which classes are free of the penalty."
    ] = 1

    name: ClassVar[str] = "raps"
    summary: ClassVar[str] = "APS with a penalty on improbable classes; fewer very large sets"
    source: ClassVar[str] = "Angelopoulos, Bates, Malik and Jordan 2021, arXiv 2009.14193"


CONFORMAL: dict[str, type[Any]] = {
    options.name: options for options in (LACOptions, APSOptions, RAPSOptions)
}
"""The options of every conformal predictor by its name."""
