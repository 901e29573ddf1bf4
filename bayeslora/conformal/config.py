"""What can be chosen about conformal sets: one dataclass a score, free of numpy.

The predictors themselves inherit from these and add what a fit found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bayeslora.option_checks import (
    OnlyWith,
    as_seed,
    check_count,
    check_flag,
    check_not_negative,
    check_share,
)

ALPHA = 0.1
"""The share of labels that may be missed, where none is asked for."""


@dataclass(eq=False)
class LACOptions:
    """Options of sets by the probability of a class.

    Attributes:
        alpha: The share of labels that may be missed, between 0 and 1.
        classwise: One threshold a class, so that the coverage holds within every class.
    """

    alpha: float = ALPHA
    classwise: bool = False

    name: ClassVar[str] = "lac"
    summary: ClassVar[str] = "classes above a threshold on the probability; smallest sets"
    source: ClassVar[str] = "Sadinle, Lei and Wasserman 2019, arXiv 1609.00451"

    def __post_init__(self) -> None:
        check_share("alpha", self.alpha)
        check_flag("classwise", self.classwise)


@dataclass(eq=False)
class APSOptions:
    """Options of adaptive prediction sets.

    Attributes:
        alpha: The share of labels that may be missed, between 0 and 1.
        classwise: One threshold a class, so that the coverage holds within every class.
        randomised: Let a random part of a class's own probability count, which makes the coverage
            exact and lets sets be empty. Without it every set holds the most probable class, and
            the coverage is at least the accuracy.
        seed: Of the random parts.
    """

    alpha: float = ALPHA
    classwise: bool = False
    randomised: bool = True
    seed: int = 0

    name: ClassVar[str] = "aps"
    only_with: ClassVar[OnlyWith] = {"seed": (("randomised", True),)}
    summary: ClassVar[str] = "the most probable classes up to a total; larger where rows are hard"
    source: ClassVar[str] = "Romano, Sesia and Candes 2020, arXiv 2006.02544"

    def __post_init__(self) -> None:
        check_share("alpha", self.alpha)
        check_flag("classwise", self.classwise)
        check_flag("randomised", self.randomised)
        self.seed = as_seed(self.seed)


@dataclass(eq=False)
class RAPSOptions(APSOptions):
    """Options of regularised adaptive prediction sets: those of APS and two more.

    Attributes:
        penalty: λ, added to the score of a class for each place below `k_reg`.
        k_reg: Place, from 1, down to which classes are free of the penalty.
    """

    penalty: float = 0.01
    k_reg: int = 1

    name: ClassVar[str] = "raps"
    summary: ClassVar[str] = "APS with a penalty on improbable classes; fewer very large sets"
    source: ClassVar[str] = "Angelopoulos, Bates, Malik and Jordan 2021, arXiv 2009.14193"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("penalty", self.penalty)
        check_count("k_reg", self.k_reg, least=0)


CONFORMAL: dict[str, type[Any]] = {
    options.name: options for options in (LACOptions, APSOptions, RAPSOptions)
}
"""The options of every conformal predictor by its name."""
