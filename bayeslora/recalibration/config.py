"""What can be chosen about a recalibrator: one dataclass per method, free of numpy.

The recalibrators themselves inherit from these and add what a fit found. That of another package
names its recalibrator in `recalibrator`, `module:object`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bayeslora.option_checks import (
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_positive_or_name,
)
from bayeslora.plugins import Catalogue, check_options_class

BINS = ("equal-mass", "equal-width")
CROSS_VALIDATION = "cross-validation"


@dataclass
class TemperatureOptions:
    """Temperature scaling has none."""

    name: ClassVar[str] = "temperature"
    summary: ClassVar[str] = "one temperature for all logits; keeps the ranking"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"


@dataclass(eq=False)
class VectorOptions:
    """Options of vector scaling.

    Attributes:
        prior_scale: Prior standard deviation of each factor around 1 and of each intercept around
            0 (nats).
    """

    prior_scale: float = 1.0

    name: ClassVar[str] = "vector"
    summary: ClassVar[str] = "a factor and an intercept for each class"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"

    def __post_init__(self) -> None:
        check_positive("prior_scale", self.prior_scale)


@dataclass(eq=False)
class MatrixOptions:
    """Options of matrix scaling.

    Attributes:
        off_diagonal_scale: Prior standard deviation of each weight of another class's
            log-probability, a number > 0; `cross-validation` chooses the one with the lowest NLL
            in folds of the fit rows.
        prior_scale: Prior standard deviation of each diagonal weight around 1 and of each
            intercept around 0 (nats).
    """

    off_diagonal_scale: float | str = CROSS_VALIDATION
    prior_scale: float = 1.0

    name: ClassVar[str] = "matrix"
    summary: ClassVar[str] = "a regularised linear map of log-probabilities (Dirichlet calibration)"
    source: ClassVar[str] = "Kull et al. 2019, arXiv 1910.12656"

    def __post_init__(self) -> None:
        scale = self.off_diagonal_scale
        check_positive_or_name("off_diagonal_scale", scale, (CROSS_VALIDATION,))
        check_positive("prior_scale", self.prior_scale)


@dataclass(eq=False)
class BetaOptions:
    """Options of beta calibration.

    Attributes:
        prior_scale: Prior standard deviation of a and b around 1 and of c around 0.
    """

    prior_scale: float = 1.0

    name: ClassVar[str] = "beta"
    summary: ClassVar[str] = "a three-parameter curve for each class against the rest"
    source: ClassVar[str] = "Kull, Silva Filho and Flach 2017, PMLR 54"

    def __post_init__(self) -> None:
        check_positive("prior_scale", self.prior_scale)


@dataclass(eq=False)
class HistogramOptions:
    """Options of histogram binning.

    Attributes:
        num_bins: B, bins of each class's probability. They are left-closed.
        bins: `equal-mass` (edges at quantiles of the class's probability) or `equal-width`.
        smoothing: m, how many rows the class's share of all fit rows counts as in each bin.
    """

    num_bins: int = 15
    bins: str = "equal-mass"
    smoothing: float = 1.0

    name: ClassVar[str] = "histogram"
    summary: ClassVar[str] = "the share of each class in bins of its probability"
    source: ClassVar[str] = "Zadrozny and Elkan 2001, ICML"

    def __post_init__(self) -> None:
        check_count("num_bins", self.num_bins, least=1)
        check_choice("bins", self.bins, BINS)
        check_not_negative("smoothing", self.smoothing)


@dataclass(eq=False)
class IsotonicOptions:
    """Options of isotonic regression.

    Attributes:
        smoothing: m, how many rows the class's share of all fit rows counts as in each block.
    """

    smoothing: float = 1.0

    name: ClassVar[str] = "isotonic"
    summary: ClassVar[str] = "a rising curve for each class against the rest"
    source: ClassVar[str] = "Zadrozny and Elkan 2002, KDD"

    def __post_init__(self) -> None:
        check_not_negative("smoothing", self.smoothing)


RECALIBRATORS: dict[str, type[Any]] = {
    options.name: options
    for options in (
        TemperatureOptions,
        VectorOptions,
        MatrixOptions,
        BetaOptions,
        HistogramOptions,
        IsotonicOptions,
    )
}
"""The options of every recalibrator by its name."""


def _checked(found: Any, where: str) -> type[Any]:
    texts = ("name", "summary", "source", "recalibrator")
    return check_options_class(found, where, texts, frozen=False)


CATALOGUE = Catalogue("recalibrator", RECALIBRATORS, _checked)
"""These, and the options of recalibrators of installed packages."""
