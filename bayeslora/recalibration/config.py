"""Options of recalibrators: one dataclass per method, without numpy.

The recalibrators inherit from these and add fitted parameters; `recalibrator` names them as
`module:object`, also for those of other packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from bayeslora.option_checks import Count, NotNegative, Options, Positive
from bayeslora.plugins import Catalogue

CROSS_VALIDATION: Literal["cross-validation"] = "cross-validation"


@dataclass
class TemperatureOptions(Options):
    """Temperature scaling has none."""

    name: ClassVar[str] = "temperature"
    summary: ClassVar[str] = "one temperature for all logits; keeps the ranking"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"
    recalibrator: ClassVar[str] = "bayeslora.recalibration.temperature:Temperature"


@dataclass(eq=False)
class VectorOptions(Options):
    """Options of vector scaling."""

    prior_scale: Annotated[
        Positive,
        "Prior standard deviation of each factor around 1 and of each intercept around 0 (nats).",
    ] = 1.0

    name: ClassVar[str] = "vector"
    summary: ClassVar[str] = "a factor and an intercept for each class"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"
    recalibrator: ClassVar[str] = "bayeslora.recalibration.linear:VectorScaling"


@dataclass(eq=False)
class MatrixOptions(Options):
    """Options of matrix scaling."""

    off_diagonal_scale: Annotated[
        Positive | Literal["cross-validation"],
        "Prior standard deviation of each weight of another class's log-probability; "
        "`cross-validation` chooses the value with the lowest NLL in cross-validation on the fit "
        "rows.",
    ] = CROSS_VALIDATION
    prior_scale: Annotated[
        Positive,
        "Prior standard deviation of each diagonal weight around 1 and of each intercept around 0 "
        "(nats).",
    ] = 1.0

    name: ClassVar[str] = "matrix"
    summary: ClassVar[str] = "a regularised linear map of log-probabilities (Dirichlet calibration)"
    source: ClassVar[str] = "Kull et al. 2019, arXiv 1910.12656"
    recalibrator: ClassVar[str] = "bayeslora.recalibration.linear:MatrixScaling"


@dataclass(eq=False)
class BetaOptions(Options):
    """Options of beta calibration."""

    prior_scale: Annotated[
        Positive, "Prior standard deviation of a and b around 1 and of c around 0."
    ] = 1.0

    name: ClassVar[str] = "beta"
    summary: ClassVar[str] = "a three-parameter curve for each class against the rest"
    source: ClassVar[str] = "Kull, Silva Filho and Flach 2017, PMLR 54"
    recalibrator: ClassVar[str] = "bayeslora.recalibration.beta:BetaCalibration"


@dataclass(eq=False)
class HistogramOptions(Options):
    """Options of histogram binning."""

    num_bins: Annotated[Count, "Number B of left-closed bins of each class's probability."] = 15
    bins: Annotated[
        Literal["equal-mass", "equal-width"],
        "`equal-mass` (edges at quantiles of the class's probability) or `equal-width`.",
    ] = "equal-mass"
    smoothing: Annotated[
        NotNegative, "Weight m, in rows, of the class's overall share in each bin."
    ] = 1.0

    name: ClassVar[str] = "histogram"
    summary: ClassVar[str] = "the share of each class in bins of its probability"
    source: ClassVar[str] = "Zadrozny and Elkan 2001, ICML"
    recalibrator: ClassVar[str] = "bayeslora.recalibration.histogram:HistogramBinning"


@dataclass(eq=False)
class IsotonicOptions(Options):
    """Options of isotonic regression."""

    smoothing: Annotated[
        NotNegative, "Weight m, in rows, of the class's overall share in each block."
    ] = 1.0

    name: ClassVar[str] = "isotonic"
    summary: ClassVar[str] = "a rising curve for each class against the rest"
    source: ClassVar[str] = "Zadrozny and Elkan 2002, KDD"
    recalibrator: ClassVar[str] = "bayeslora.recalibration.isotonic:IsotonicRegression"


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


CATALOGUE = Catalogue("recalibrator", RECALIBRATORS, Options)
"""These options, and those of recalibrators from installed packages."""
