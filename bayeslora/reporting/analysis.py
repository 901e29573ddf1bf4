"""The content of a report, computed once: scores, comparisons, curves, adapter changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.robustness import Robustness
from bayeslora.predictions.collection import Method, Source, ood_names
from bayeslora.reporting.adapter_changes import AdapterChange
from bayeslora.reporting.assess import Asked, Assessed, assess, pair, pool
from bayeslora.reporting.ranking import Facts, facts_of
from bayeslora.reporting.shift import ShiftCurve, shift_curves


@dataclass(frozen=True)
class Analysis:
    """Results on predictions.

    Attributes:
        fits: Every fit with its scores, in the original order.
        methods: One entry per method, with its seeds pooled.
        comparison: Paired differences from the method of lowest NLL, if any.
        sets: Name -> label of each out-of-distribution set.
        shift: Scores of corrupted examples.
        changes: Adapter changes.
        robustness: Scores under attack.
    """

    fits: Sequence[Assessed]
    methods: Sequence[Assessed]
    comparison: Comparison | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    shift: Sequence[ShiftCurve] = ()
    changes: Sequence[AdapterChange] = ()
    robustness: Sequence[Robustness] = ()

    @cached_property
    def facts(self) -> Facts:
        """The leading method and other facts that several sections share."""
        return facts_of(self.methods, self.comparison, self.sets)


def analyse(
    methods: Sequence[Method],
    shifted: Sequence[Source] = (),
    *,
    evaluate_options: Asked,
    ood_score: str | None,
    over_seeds: bool,
    num_bins: int,
    num_resamples: int,
    seed: int,
    changes: Sequence[AdapterChange] = (),
    robustness: Sequence[Robustness] = (),
) -> Analysis:
    """Score predictions and compare them.

    Args:
        methods: Methods from `gather`.
        shifted: Predictions of the same rows, corrupted.
        evaluate_options: Options of `evaluate`.
        ood_score: The uncertainty used for detection; see `evaluate`.
        over_seeds: Whether to pool the fits of one method with several seeds.
        num_bins: Number of bins of the calibration errors.
        num_resamples: Number of bootstrap resamples for the intervals.
        seed: Seed of the bootstrap.
        changes: Adapter changes.
        robustness: Scores under attack.

    Raises:
        InputError: As `evaluate`, `compare` and `shift_curves`.
    """
    options = {"num_bins": num_bins, "num_resamples": num_resamples, "seed": seed}
    fits = assess(methods, ood_score=ood_score, evaluate_options=evaluate_options, **options)
    shift = shift_curves(fits, shifted, **options)
    pooled = pool(fits) if over_seeds else fits
    compared = pair(pooled, evaluate_options=evaluate_options, **options)
    return Analysis(fits, pooled, compared, ood_names(methods), shift, changes, robustness)
