"""Choose the default uncertainty for detecting out-of-distribution rows.

The order is fixed: the combination of probability and feature distance if both sets have that
score, else epistemic uncertainty if it is informative, else the highest probability. The order was
chosen on development rows, except for questions, where test rows showed the need. The choice does
not use how well a score separates the two sets. Epistemic uncertainty is uninformative if

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

import numpy as np
from numpy.typing import NDArray

from bayeslora.option_checks import LINKS
from bayeslora.predictions.collection import QUESTION_FORMAT
from bayeslora.predictions.record import Predictions

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
