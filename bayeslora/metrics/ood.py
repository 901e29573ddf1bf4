"""Telling out-of-distribution rows from the others by an uncertainty.

OOD is the positive class, and a higher uncertainty means "more likely OOD". Rows of equal
uncertainty fall on the same side of every threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError

DETECTION = ("auroc", "aupr", "fpr95", "aupr_in")
"""The scores that `detection` returns, in order."""


def common_first(names: Iterable[str]) -> str:
    """Return the uncertainty that all report first, or else the one that all predictions have."""
    firsts = {*names}
    return firsts.pop() if len(firsts) == 1 else "max_probability"


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Uncertainties of both sets, sorted once for many resamples; made by `thresholds`.

    Attributes:
        order: [N_in + N_out] rows of both sets, in-distribution first, by falling uncertainty.
        is_out: [N_in + N_out] 1 where the row in that place is OOD.
        ends: [G] the last place of each run of equal uncertainties.
    """

    order: NDArray[np.int64]
    is_out: NDArray[np.int64]
    ends: NDArray[np.int64]


def thresholds(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> Thresholds:
    """Sort the uncertainties of both sets.

    Args:
        uncertainty_in: [N_in] of in-distribution rows, finite.
        uncertainty_out: [N_out] of OOD rows, finite.

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
    return Thresholds(order, (order >= inside.size).astype(np.int64), ends)


def detection(
    sorted_rows: Thresholds,
    counts_in: NDArray[Any] | None = None,
    counts_out: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Return [4], or [4, R] for R resamples: AUROC, AUPR, FPR95, and AUPR of the other direction.

    AUROC is the share of (OOD, in-distribution) pairs where the OOD row is the more uncertain one,
    ties counting half. AUPR is the average precision, Σ (R_g − R_{g−1}) P_g over thresholds, with
    no interpolation; in the other direction in-distribution rows are the positive class, the least
    uncertain first. FPR95 is the share of in-distribution rows flagged at the highest threshold
    that flags at least 95 % of the OOD rows.

    Args:
        sorted_rows: From `thresholds`.
        counts_in: [N_in] how often each in-distribution row occurs, or [N_in, R]; once where None.
        counts_out: The same of OOD rows, [N_out] or [N_out, R]; give both or none.
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
