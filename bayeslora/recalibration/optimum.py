"""The minimum of a smooth convex function, by scipy's L-BFGS-B."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.threads import one_blas_thread

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MAX_STEPS = 3000

EXACT, ROUGH = 1e-9, 1e-5
"""What is left of the gradient of a mean over rows: to print numbers; to choose between fits."""


def minimise(
    objective: Callable[[Array], tuple[float, Array]],
    start: Array,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    tolerance: float = EXACT,
) -> Array:
    """Return where a convex function is lowest; say where the search stops short of it.

    Args:
        objective: Takes [P] and returns the value and the gradient [P].
        start: [P].
        bounds: Lower and upper end of every parameter; None is unbounded.
        tolerance: Largest entry of the gradient at which the search ends.
    """
    from scipy.optimize import minimize

    with one_blas_thread():
        found = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={
                "maxiter": MAX_STEPS,
                "maxfun": 2 * MAX_STEPS,
                "maxcor": 20,
                "ftol": 1e-15 if tolerance == EXACT else tolerance**2,
                "gtol": tolerance,
            },
        )
    if found.nit >= MAX_STEPS:
        left = float(np.abs(found.jac).max())
        logger.warning("recalibration stopped after %d steps, gradient %.1e", found.nit, left)
    return np.asarray(found.x, dtype=np.float64)
