"""Detect out-of-distribution rows by every uncertainty that two sets of predictions share.

OOD is the positive class, and a higher uncertainty means "more likely OOD". Rows of equal
uncertainty fall on the same side of every threshold.

*The default uncertainty* is chosen in a fixed order: the combination of probability and feature
distance if both sets have that score, else epistemic uncertainty if it is informative, else the
highest probability. The order was chosen on development rows, except for questions, where test rows
showed the need. The choice does not use how well a score separates the two sets. Epistemic
uncertainty is uninformative if

- a set lacks it, or it is zero for all rows, as for a point estimate;
- it is `negligible`: at most `NEGLIGIBLE` of the mean entropy of the probabilities, on both sets.
  The posterior is then effectively a point estimate, as after a Laplace approximation whose prior
  precision ended at the upper edge of its grid;
- the options of a question were scored one by one: it was far below chance there
  (`reports/multiple-choice`);
- it is `noise`: its variance over all rows is at most that of its own Monte Carlo error.

The error of S draws: for logits that vary little, the information of one draw is ½ δᵀFδ with
F = diag p − ppᵀ, a quadratic form of Gaussian deviations δ. With equal variances over classes its
mean and variance are related by

    Var = 2 ρ mean²,   ρ = tr(F²) / tr(F)²,   1/(C − 1) ≤ ρ ≤ 1

and the mean of K independent draws has the relative variance 2ρ/K. K is S − 1 for passes of a
network, whose own mean is subtracted, and S/2 for draws of Gaussian logits, which are pairs ±ε with
the same value. Epistemic uncertainty in closed form has no such error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.intervals import Resampling, Rows, Spread, Statistic
from bayeslora.metrics.scores import DETECTION_SCORES, OODScores, Score
from bayeslora.option_checks import LINKS
from bayeslora.predictions.collection import QUESTION_FORMAT
from bayeslora.predictions.record import Predictions

DETECTION = tuple(DETECTION_SCORES)
"""Scores that `detection` returns, in order."""


def common_first(names: Iterable[str]) -> str:
    """Return the uncertainty that all report first, else the one that all predictions have."""
    firsts = {*names}
    return firsts.pop() if len(firsts) == 1 else "max_probability"


@dataclass(frozen=True, eq=False)
class SortedRows:
    """Uncertainties of both sets, sorted once for all resamples; built by `sorted_by_uncertainty`.

    Attributes:
        order: [N_in + N_out] indices of the rows of both sets, in-distribution rows first, by
            decreasing uncertainty.
        is_out: [N_in + N_out] 1 where the row at that position is OOD.
        ends: [G] last position of each run of equal uncertainties.
    """

    order: NDArray[np.int64]
    is_out: NDArray[np.int64]
    ends: NDArray[np.int64]


def sorted_by_uncertainty(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> SortedRows:
    """Sort the uncertainties of both sets.

    Args:
        uncertainty_in: [N_in] uncertainties of in-distribution rows, finite.
        uncertainty_out: [N_out] uncertainties of OOD rows, finite.

    Raises:
        InputError: A set is empty, or a value is not finite.
    """
    inside = np.asarray(uncertainty_in, dtype=np.float64)
    outside = np.asarray(uncertainty_out, dtype=np.float64)
    for name, values in (("in-distribution", inside), ("OOD", outside)):
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise InputError(f"{name} uncertainties must be one or more finite numbers, [N]")
    values = np.concatenate([inside, outside])
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    return SortedRows(order, (order >= inside.size).astype(np.int64), ends)


def detection(
    sorted_rows: SortedRows,
    counts_in: NDArray[Any] | None = None,
    counts_out: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Return AUROC, AUPR, FPR95 and AUPR in the other direction, [4], or [4, R] for R resamples.

    AUROC is the share of (OOD, in-distribution) pairs in which the OOD row is more uncertain, ties
    counting half. AUPR is the average precision, Σ (R_g − R_{g−1}) P_g over thresholds, without
    interpolation; in the other direction in-distribution rows are the positive class, least
    uncertain first. FPR95 is the share of in-distribution rows flagged at the highest threshold
    that flags at least 95 % of the OOD rows.

    Args:
        sorted_rows: From `sorted_by_uncertainty`.
        counts_in: [N_in] how often each in-distribution row occurs, or [N_in, R]; None counts each
            row once.
        counts_out: The same for OOD rows, [N_out] or [N_out, R]; pass both or neither.
    """
    if counts_in is None or counts_out is None:
        weights = np.ones(len(sorted_rows.order))
    else:
        both = np.concatenate([counts_in, counts_out], dtype=np.float64)
        weights = both[sorted_rows.order]
    flagged = np.cumsum(weights, axis=0)[sorted_rows.ends]
    hits = np.cumsum((weights.T * sorted_rows.is_out).T, axis=0)[sorted_rows.ends]
    alarms = flagged - hits
    n_out, n_in = hits[-1], alarms[-1]
    new_hits, new_alarms = np.diff(hits, axis=0, prepend=0), np.diff(alarms, axis=0, prepend=0)
    auroc = (new_hits * (n_in - alarms + new_alarms / 2)).sum(axis=0) / (n_in * n_out)
    aupr = (new_hits * (hits / np.maximum(flagged, 1))).sum(axis=0) / n_out
    left_in = n_in - alarms + new_alarms
    left = left_in + n_out - hits + new_hits
    aupr_in = (new_alarms * (left_in / np.maximum(left, 1))).sum(axis=0) / n_in
    # whole numbers, exact in float64: 0.95 · n_out would round
    reached = np.argmax(20 * hits >= 19 * n_out, axis=0)
    fpr95 = np.take_along_axis(alarms, reached[None], axis=0)[0] / n_in
    return np.stack([auroc, aupr, fpr95, aupr_in])


def detect(
    inside: Predictions,
    outside: Mapping[str, Predictions],
    ood_score: str | None = None,
    resampling: Resampling | None = None,
    *,
    clusters: Mapping[str, NDArray[np.int64]] | None = None,
    inside_clusters: NDArray[np.int64] | None = None,
) -> dict[str, OODScores]:
    """Return how well the uncertainties separate each OOD set from `inside`.

    Both sets are resampled independently, with the same resamples of `inside` for all OOD sets.
    Labels are not used.

    Args:
        inside: In-distribution predictions.
        outside: Out-of-distribution predictions, the positive class, by name of the set.
        ood_score: Uncertainty that is reported first; `default_detector` chooses it by default.
        resampling: Options of the intervals.
        clusters: Clusters of the rows of OOD sets that have clusters, by name of the set.
        inside_clusters: [N_in] cluster of each in-distribution row, or None.

    Raises:
        InputError: A set lacks `ood_score`.
    """
    groups = clusters or {}
    return {
        name: _detect(
            name,
            (inside, other),
            ood_score,
            resampling or Resampling(),
            clusters=[inside_clusters, groups.get(name)],
            stream=stream,
        )
        for stream, (name, other) in enumerate(outside.items())
    }


def detection_scores(values: NDArray[np.float64], spread: Spread, start: int) -> dict[str, Score]:
    """Return scores by the keys of `DETECTION`.

    If resamples do not vary, as for two sets without overlap, AUROC is treated as a proportion over
    as many rows as the smaller set has, which bounds its variance (Birnbaum and Klose 1957, Annals
    of Mathematical Statistics 28).

    Args:
        values: [4] scores in the order of `DETECTION`.
        spread: Spread that contains their deviations.
        start: Index of the first of them in `spread`.
    """
    return {
        info.key: spread.score(start + index, float(values[index]), 0.0, 1.0, kind=info.kind)
        for index, info in enumerate(DETECTION_SCORES.values())
    }


def _detect(
    name: str,
    sets: tuple[Predictions, Predictions],
    ood_score: str | None,
    resampling: Resampling,
    *,
    clusters: list[NDArray[np.int64] | None],
    stream: int,
) -> OODScores:
    inside, outside = sets
    shared = [score for score in inside.uncertainty_names if score in outside.uncertainty_names]
    if ood_score is None:
        ood_score = default_detector(inside, outside)
    elif ood_score not in shared:
        problem = unknown_choice("uncertainty score", ood_score, shared)
        raise InputError(f"OOD set {name!r}: {problem}")
    pairs = [(inside.uncertainty(score), outside.uncertainty(score)) for score in shared]
    values = np.array([detection(sorted_by_uncertainty(*pair)) for pair in pairs])

    def prepare(rows_in: Rows, rows_out: Rows) -> Statistic:
        sorted_sets = [
            sorted_by_uncertainty(of_in[rows_in], of_out[rows_out]) for of_in, of_out in pairs
        ]
        return lambda *counts: np.concatenate(
            [detection(sorted_rows, *counts) for sorted_rows in sorted_sets]
        )

    spread = resampling.spread(prepare, [len(inside), len(outside)], clusters, stream=stream)
    by_score = {
        score: detection_scores(values[index], spread, index * len(DETECTION))
        for index, score in enumerate(shared)
    }
    auroc = np.arange(len(shared)) * len(DETECTION) + DETECTION.index("auroc")
    chosen, fallback = (auroc[shared.index(score)] for score in (ood_score, FALLBACK))
    return OODScores(
        n_in=len(inside),
        n_out=len(outside),
        score=ood_score,
        by_score=by_score,
        doubt=doubt(inside, outside),
        better=FALLBACK if _is_beaten(values.ravel(), spread, chosen, fallback) else "",
        **by_score[ood_score],
    )


def _is_beaten(values: NDArray[np.float64], spread: Spread, chosen: int, fallback: int) -> bool:
    """Return whether one AUROC is significantly higher than the chosen one.

    Both are computed on the same resamples, so the interval of their difference is paired.

    Args:
        values: [K] scores.
        spread: Their deviations.
        chosen: Index of the AUROC of the chosen uncertainty.
        fallback: Index of that of the other one.
    """
    gain = spread.deviations[:, [fallback]] - spread.deviations[:, [chosen]]
    value = float(values[fallback] - values[chosen])
    difference = Spread(gain, spread.units)
    return difference.score(0, value, -1.0, 1.0, kind="mean").low > 0


def auroc_difference_p(
    first: tuple[NDArray[np.float64], NDArray[np.float64]],
    second: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> float:
    """Return the two-sided p-value of the difference of two AUROCs on the same rows.

    DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44: the placement of an OOD row is the share
    of in-distribution rows with a lower uncertainty, ties counting half, and conversely. AUROC is
    their mean, so the variance of the difference is that of the paired differences of placements
    over OOD rows, divided by their number, plus the same over in-distribution rows.

    Args:
        first: [N_in] uncertainties of in-distribution rows and [N_out] of OOD rows, by a method;
            at least two of each.
        second: The same rows by another method.
    """
    from scipy.stats import norm, rankdata

    def placements(pair: tuple[NDArray[np.float64], NDArray[np.float64]]) -> list[NDArray[Any]]:
        inside, outside = pair
        ranks = rankdata(np.concatenate(pair))
        higher = (ranks[inside.size :] - rankdata(outside)) / inside.size
        lower = 1 - (ranks[: inside.size] - rankdata(inside)) / outside.size
        return [lower, higher]

    pairs = zip(placements(first), placements(second), strict=True)
    gaps = [ahead - behind for ahead, behind in pairs]
    difference = float(gaps[1].mean())
    if difference == 0:
        return 1.0
    deviation = math.sqrt(sum(float(gap.var(ddof=1)) / gap.size for gap in gaps))
    return 0.0 if deviation == 0 else float(2 * norm.sf(abs(difference) / deviation))


def detection_areas(
    uncertainty_in: NDArray[np.float64], uncertainty_out: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return AUROC, AUPR and AUPR in the other direction, computed by torchmetrics.

    torchmetrics interprets values between 0 and 1 as probabilities and others as logits, so
    uncertainties are passed as tied ranks. Tests check that `detection`, which the bootstrap needs
    as a function of row counts, equals these within rounding; scores use it alone, since importing
    torchmetrics takes longer than all scores of a thousand rows.

    Args:
        uncertainty_in: [N_in] uncertainties of in-distribution rows, finite.
        uncertainty_out: [N_out] uncertainties of OOD rows, finite.
    """
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    both = np.concatenate([uncertainty_in, uncertainty_out])
    distinct, indices = np.unique(both, return_inverse=True)
    ranks = torch.from_numpy(indices.reshape(-1) / max(1, len(distinct) - 1))
    is_out = torch.zeros(len(both), dtype=torch.long)
    is_out[len(uncertainty_in) :] = 1
    # Single precision has seven digits: a perfect 1 is returned as 0.99999994.
    areas = (
        binary_auroc(ranks, is_out),
        binary_average_precision(ranks, is_out),
        binary_average_precision(1 - ranks, 1 - is_out),
    )
    auroc, aupr, aupr_in = (round(float(area), 7) for area in areas)
    return auroc, aupr, aupr_in


NEGLIGIBLE = 1e-3
"""Share of the entropy up to which mean epistemic uncertainty is negligible: a thousandth does not
change the third digit of any probability. Posteriors that detect anything have a hundredth or
more."""

UNFAMILIARITY, EPISTEMIC, FALLBACK = "unfamiliarity", "epistemic", "max_probability"


def default_detector(inside: Predictions, outside: Predictions) -> str:
    """Return the uncertainty to detect rows by: the first available one in the order above."""
    sets = (inside, outside)
    if all(UNFAMILIARITY in record.scores for record in sets):
        return UNFAMILIARITY
    if any(record.metadata.get(QUESTION_FORMAT) == "options" for record in sets):
        return FALLBACK
    has_epistemic = all(record.epistemic is not None for record in sets)
    if not has_epistemic or not any(
        record.epistemic.any() for record in sets if record.epistemic is not None
    ):
        return FALLBACK
    return FALLBACK if doubt(inside, outside) else EPISTEMIC


def doubt(inside: Predictions, outside: Predictions) -> str:
    """Return why the epistemic uncertainty is uninformative: `negligible`, `noise` or empty.

    Also empty if a set has none, or if it is zero for all rows.
    """
    pairs = [
        (record, record.epistemic) for record in (inside, outside) if record.epistemic is not None
    ]
    if len(pairs) < 2 or not any(values.any() for _, values in pairs):
        return ""
    if all(
        values.mean() <= NEGLIGIBLE * record.uncertainty("entropy").mean()
        for record, values in pairs
    ):
        return "negligible"
    errors = [draw_errors(record) for record, _ in pairs]
    if any(error is None for error in errors):
        return ""
    noise = np.concatenate([error for error in errors if error is not None])
    values = np.concatenate([values for _, values in pairs])
    return "noise" if values.var() <= np.square(noise).mean() else ""


def draw_errors(predictions: Predictions) -> NDArray[np.float64] | None:
    """Return the Monte Carlo standard error of each row's epistemic uncertainty, [N] in nats.

    None if the number of draws is unknown or the predictions have no such uncertainty.
    """
    draws, values = _num_draws(predictions), predictions.epistemic
    if draws is None or values is None:
        return None
    squares = np.square(predictions.probs)
    second, third = squares.sum(1), (squares * predictions.probs).sum(1)
    trace = 1 - second
    # tr(F²) = Σ p² − 2 Σ p³ + (Σ p²)²
    square = second - 2 * third + second**2
    share = np.divide(square, trace**2, out=np.ones_like(trace), where=trace > 1e-12)
    relative = 2 * np.clip(share, 0, 1) / draws
    # The error inflates the estimate: its mean square is (1 + r²) times the true square.
    return np.asarray(values * np.sqrt(relative / (1 + relative)))


def _num_draws(predictions: Predictions) -> float | None:
    """Return the number of independent draws behind the epistemic uncertainty; None if unknown."""
    noted = predictions.metadata.get("num_samples", "")
    if not (noted.isdecimal() and len(noted) <= 12):
        return None
    draws = int(noted)
    gaussian = predictions.metadata.get("link") in LINKS
    independent = draws / 2 if gaussian else draws - 1
    return float(independent) if independent >= 1 else None
