"""Scores of OOD detection for every uncertainty that two sets of predictions share."""

from __future__ import annotations

import numpy as np

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.bootstrap import Rows, Statistic, bootstrap_deviations
from bayeslora.metrics.intervals import bootstrap_interval
from bayeslora.metrics.ood import DETECTION, detection, thresholds
from bayeslora.metrics.scores import OODScores
from bayeslora.metrics.standard import detection_areas
from bayeslora.predictions import Predictions


def detect(
    name: str,
    inside: Predictions,
    outside: Predictions,
    ood_score: str | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> OODScores:
    """Return how well the uncertainties tell the rows of `outside` from those of `inside`.

    Both sets are resampled, each by itself; labels play no part.

    Args:
        name: Of the OOD set, for messages.
        inside: In-distribution predictions.
        outside: Out-of-distribution predictions; the positive class.
        ood_score: The uncertainty that is reported first. By default `epistemic` where both sets
            have it and it is not zero throughout, as that of a point estimate is; else
            `max_probability`.
        num_resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Raises:
        InputError: One of the sets lacks `ood_score`.
    """
    shared = [score for score in inside.uncertainty_names if score in outside.uncertainty_names]
    if ood_score is None:
        ood_score = _default_score(inside, outside)
    elif ood_score not in shared:
        problem = unknown_choice("uncertainty score", ood_score, shared)
        raise InputError(f"OOD set {name!r}: {problem}")
    pairs = [(inside.uncertainty(score), outside.uncertainty(score)) for score in shared]
    values = np.array(
        [[*detection_areas(*pair), detection(thresholds(*pair))[2]] for pair in pairs]
    )

    def prepare(rows_in: Rows, rows_out: Rows) -> Statistic:
        kept = [thresholds(of_in[rows_in], of_out[rows_out]) for of_in, of_out in pairs]
        return lambda *counts: np.concatenate([detection(one, *counts) for one in kept])

    deviations = bootstrap_deviations(prepare, [len(inside), len(outside)], num_resamples, seed)
    spread = deviations.reshape(num_resamples, *values.shape)
    by_score = {
        score: {
            key: bootstrap_interval(float(values[i, k]), spread[:, i, k], "percentile", 0.0, 1.0)
            for k, key in enumerate(DETECTION)
        }
        for i, score in enumerate(shared)
    }
    chosen = by_score[ood_score]
    return OODScores(
        n_in=len(inside),
        n_out=len(outside),
        score=ood_score,
        auroc=chosen["auroc"],
        aupr=chosen["aupr"],
        fpr95=chosen["fpr95"],
        by_score=by_score,
    )


def _default_score(inside: Predictions, outside: Predictions) -> str:
    sets = [one.epistemic for one in (inside, outside) if one.epistemic is not None]
    if len(sets) == 2 and any(values.any() for values in sets):
        return "epistemic"
    return "max_probability"
