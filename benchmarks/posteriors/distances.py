"""Distances of the approximations in `posteriors` from the exact posterior of the last layer.

Chains and approximations use the same features and the same prior; otherwise a distance would be
between two posteriors, not between a posterior and its approximation. Therefore methods that choose
their prior on validation rows are fitted again here with the prior of the chains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bayeslora as bl
from bayeslora.metrics.differences import DISTANCES, distances
from bayeslora.metrics.intervals import Resampling
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE
from bayeslora.predictions.record import Predictions
from benchmarks.lib.experiment_data import ExperimentData

EXACT = "nuts:kernel=hmc,num_samples=500"
PRIOR_SCALE = DEFAULT_PRIOR_SCALE
"""Prior standard deviation of a logit, for `EXACT` and all approximations."""

_VBLL = f"vbll:prior_scale={PRIOR_SCALE:g},polish_mean=refit"
_LAPLACE = f"laplace:prior_precision={PRIOR_SCALE**-2:g}"

# Approximations by the fit whose features they use. Laplace stays at the trained mean and therefore
# needs the features of a MAP fit.
APPROXIMATIONS: dict[str, tuple[str, ...]] = {
    "map": (
        f"{_LAPLACE},structure=full",
        f"{_LAPLACE},structure=kron",
        f"{_LAPLACE},structure=diag",
        _VBLL,
        f"{_VBLL},polish_bound=jensen",
        f"{_VBLL},covariance=diagonal",
        f"{_VBLL},laplace_refinement=true",
    ),
    "vbll": (
        _VBLL,
        f"{_VBLL},polish_bound=jensen",
        f"{_VBLL},covariance=diagonal",
        f"{_VBLL},laplace_refinement=true",
    ),
}

Answer = tuple[dict[str, Any], Predictions]
"""Choices of a posterior, and its predictions of the test rows."""


def distance_rows(
    data: ExperimentData,
    fit: str,
    load: Callable[[], bl.BayesianClassifier],
    exact: Answer | None = None,
) -> list[dict[str, Any]]:
    """Return the row of the chains, with convergence diagnostics, then one row per approximation.

    Args:
        data: Rows of the data set.
        fit: A key of `APPROXIMATIONS`.
        load: Loads the fitted classifier that computes the features.
        exact: Stored answer of `EXACT` on these features; None runs the chains.
    """
    answers = {EXACT: exact or _answer(data, load(), EXACT)}
    if fit == "map":
        # The trained point estimate has the prior of the chains.
        answers["map"] = _answer(data, load(), None)
    answers |= {name: _answer(data, load(), name) for name in APPROXIMATIONS[fit]}
    predictions = [item for _, item in answers.values()]
    apart = distances(predictions, 0, Resampling(num_resamples=1))
    return [
        {
            "method": name,
            "chosen": chosen,
            **{key: scores[key].value for key in DISTANCES if key in scores},
        }
        for (name, (chosen, _)), scores in zip(answers.items(), apart, strict=True)
    ]


def _answer(data: ExperimentData, clf: bl.BayesianClassifier, posterior: str | None) -> Answer:
    if posterior is not None:
        clf.calibrate(data.train, data.validation, posterior=posterior)
    return clf.record.results.get("posterior", {}), clf.predict(data.test)
