"""All that a report says and draws, computed once: scores, comparisons, curves, adapter changes."""

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
    """What was found out about predictions.

    Attributes:
        fits: Every fit with its scores, as they were given.
        methods: What was scored, one entry a method: its seeds together, where it has several.
        comparison: Paired differences from the method of lowest NLL, if there are any.
        sets: Label of each out-of-distribution set by its name.
        shift: Scores of examples that were made worse on purpose.
        changes: What adapters changed.
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
        """Who leads, and what else the sections say."""
        return facts_of(self.methods, self.comparison, self.sets)


def analyse(
    methods: Sequence[Method],
    shifted: Sequence[Source] = (),
    *,
    asked: Asked,
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
        methods: What was gathered.
        shifted: Predictions of the same rows made worse on purpose.
        asked: Options of `evaluate`.
        ood_score: The uncertainty to judge detection by; see `evaluate`.
        over_seeds: Whether fits of one method with several seeds are one method.
        num_bins: Bins of the calibration errors.
        num_resamples: Bootstrap resamples behind the intervals.
        seed: Of the bootstrap.
        changes: What adapters changed.
        robustness: Scores under attack.

    Raises:
        InputError: As `evaluate`, `compare` and `shift_curves`.
    """
    options = {"num_bins": num_bins, "num_resamples": num_resamples, "seed": seed}
    fits = assess(methods, ood_score=ood_score, asked=asked, **options)
    shift = shift_curves(fits, shifted, **options)
    pooled = pool(fits) if over_seeds else fits
    compared = pair(pooled, asked=asked, **options)
    return Analysis(fits, pooled, compared, ood_names(methods), shift, changes, robustness)
