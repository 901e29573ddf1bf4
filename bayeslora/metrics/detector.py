"""Which uncertainty detects out-of-distribution rows where no one was asked for.

The order is fixed: probability and distance of the features combined where both sets have that
score, else epistemic uncertainty where it says something, else the highest probability. The order
was chosen on development rows; nothing here looks at how well a score separates the two sets, so
the default is not chosen on the rows that judge it. Epistemic uncertainty says nothing where

- a set lacks it, or it is zero throughout, as that of a point estimate is;
- it is `negligible`: at most `NEGLIGIBLE` of the entropy of the probabilities on average, on the
  in-distribution rows and on the others. The posterior is a point estimate for all purposes, as
  after a Laplace approximation whose prior precision ended at the upper edge of its grid;
- it is `noise`: over all rows it varies no more than its own Monte Carlo error makes it vary.

The error of S draws. For logits that vary little, the information of one draw is ½ δᵀFδ with
F = diag p − ppᵀ, a quadratic form of Gaussian deviations δ. With variances equal over classes its
mean and variance stand in the ratio

    Var = 2 ρ mean²,   ρ = tr(F²) / tr(F)²,   1/(C − 1) ≤ ρ ≤ 1

and the mean of K independent ones has the relative variance 2ρ/K. K is S − 1 for passes of a
network, whose own mean is subtracted, and S/2 for draws of Gaussian logits, which come in pairs ±ε
of the same value. Epistemic uncertainty that is known without draws has no such error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslora.option_checks import LINKS
from bayeslora.predictions.record import Predictions

NEGLIGIBLE = 1e-3
"""Share of the entropy up to which mean epistemic uncertainty counts as none: a thousandth moves no
probability in its third digit. Posteriors that detect anything have a hundredth or more."""

UNFAMILIARITY, EPISTEMIC, FALLBACK = "unfamiliarity", "epistemic", "max_probability"


def default_detector(inside: Predictions, outside: Predictions) -> str:
    """Return the uncertainty to detect rows by: the first of the order above that is there."""
    sets = (inside, outside)
    if all(UNFAMILIARITY in one.scores for one in sets):
        return UNFAMILIARITY
    has_it = all(one.epistemic is not None for one in sets)
    if not has_it or not any(one.epistemic.any() for one in sets if one.epistemic is not None):
        return FALLBACK
    return FALLBACK if doubt(inside, outside) else EPISTEMIC


def doubt(inside: Predictions, outside: Predictions) -> str:
    """Return why the epistemic uncertainty says nothing: `negligible`, `noise`, else empty.

    Empty too where a set has none, or where it is zero throughout.
    """
    pairs = [(one, one.epistemic) for one in (inside, outside) if one.epistemic is not None]
    if len(pairs) < 2 or not any(values.any() for _, values in pairs):
        return ""
    if all(
        values.mean() <= NEGLIGIBLE * one.uncertainty("entropy").mean() for one, values in pairs
    ):
        return "negligible"
    errors = [draw_errors(one) for one, _ in pairs]
    if any(error is None for error in errors):
        return ""
    noise = np.concatenate([error for error in errors if error is not None])
    values = np.concatenate([values for _, values in pairs])
    return "noise" if values.var() <= np.square(noise).mean() else ""


def draw_errors(predictions: Predictions) -> NDArray[np.float64] | None:
    """Return the Monte Carlo standard error of each row's epistemic uncertainty, [N] in nats.

    None where the predictions do not say how many draws were made, or have no such uncertainty.
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
    # The estimate is itself spread by the error: its mean square is (1 + r²) times the true square.
    return np.asarray(values * np.sqrt(relative / (1 + relative)))


def _num_draws(predictions: Predictions) -> float | None:
    """Return the number of independent values behind the epistemic uncertainty; None if unknown."""
    noted = predictions.metadata.get("num_samples", "")
    if not (noted.isdecimal() and len(noted) <= 12):
        return None
    draws = int(noted)
    gaussian = predictions.metadata.get("link") in LINKS
    independent = draws / 2 if gaussian else draws - 1
    return float(independent) if independent >= 1 else None
