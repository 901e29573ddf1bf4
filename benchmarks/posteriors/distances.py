"""How far the approximations of `posteriors` are from the exact posterior of the last layer.

Chains and approximations see the same features and have the same prior: without that a distance
would be between two posteriors, not between a posterior and its approximation. Methods that choose
their prior on validation rows are therefore fitted again here with the prior of the chains.
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
"""Prior standard deviation of a logit, of `EXACT` and of all that is measured from it."""

_VBLL = f"vbll:prior_scale={PRIOR_SCALE:g},polish_mean=refit"
_LAPLACE = f"laplace:prior_precision={PRIOR_SCALE**-2:g}"

# Approximations by the fit whose features they are fitted to. Laplace belongs to the features of
# a MAP fit alone, as it stays at the trained mean.
APPROXIMATIONS: dict[str, tuple[str, ...]] = {
    "map": (
        f"{_LAPLACE},structure=full",
        f"{_LAPLACE},structure=kron",
        f"{_LAPLACE},structure=diag",
        _VBLL,
        f"{_VBLL},polish_bound=jensen",
        f"{_VBLL},covariance=diagonal",
        f"{_VBLL},covariance=full,polish_bound=tilted",
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
"""What a posterior chose, and its predictions of the test rows."""


def distance_rows(
    data: ExperimentData,
    fit: str,
    load: Callable[[], bl.BayesianClassifier],
    exact: Answer | None = None,
) -> list[dict[str, Any]]:
    """Return the chains' row, with what says whether they converged, then one an approximation.

    Args:
        data: The rows.
        fit: Of `APPROXIMATIONS`.
        load: Returns the fitted classifier whose features are meant.
        exact: The answer of `EXACT` on these features, where it is there already.
    """
    answers = {EXACT: exact or _answer(data, load(), EXACT)}
    if fit == "map":
        # The trained point itself: its prior is that of the chains.
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
