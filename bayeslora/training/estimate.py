"""How long a fit will take and how much its posterior will hold, said before it starts."""

from __future__ import annotations

import logging
import math

from bayeslora.posteriors.config import AUTO, VBLL, PosteriorConfig
from bayeslora.posteriors.vbll_cost import fit_cost, multiplication_rate, settled
from bayeslora.training.progress import tell
from bayeslora.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

BACKWARD = 3.0
"""A training step against a pass of the same texts: forward, and twice as much backward."""

STEP_SECONDS = 0.01
"""What a step takes besides: the Trainer's loop, the optimiser, the head."""

WORTH_SAYING = 5.0
"""Seconds of a final fit alone from which it is announced."""


def settle_posterior(
    posterior: PosteriorConfig, num_classes: int, num_features: int, num_rows: int
) -> PosteriorConfig:
    """Return the posterior with the covariance that it will have; log where it is not a dense one.

    Args:
        posterior: What was asked for; an explicit covariance is obeyed.
        num_classes: C.
        num_features: d.
        num_rows: Training rows N.
    """
    if not isinstance(posterior, VBLL):
        return posterior
    chosen = settled(posterior, num_classes, num_features, num_rows)
    if posterior.covariance == AUTO and chosen.covariance != "dense":
        dense = fit_cost(posterior, num_classes, num_features, num_rows)
        logger.warning(
            "a dense covariance of %d classes and %d features, fitted to %d rows, would take "
            "about %s and %.0f MB, so it is %s; vbll:covariance=dense forces it",
            num_classes,
            num_features,
            num_rows,
            duration(dense.seconds(multiplication_rate())),
            dense.megabytes,
            chosen.covariance,
        )
    return chosen


def announce_final_fit(
    posterior: PosteriorConfig, shape: tuple[int, int], num_rows: int, *, shown: bool
) -> None:
    """Say what the final fit takes, where it takes long.

    Args:
        posterior: Which one.
        shape: Classes C and features d.
        num_rows: Training rows N.
        shown: Whether anything is to be said.
    """
    if not shown or not isinstance(posterior, VBLL):
        return
    cost = fit_cost(posterior, *shape, num_rows)
    seconds = cost.seconds(multiplication_rate())
    if seconds >= WORTH_SAYING:
        tell(
            f"final fit: {posterior.covariance} covariance of {shape[0]} classes, about "
            f"{duration(seconds)}, {cost.megabytes:.0f} MB"
        )


def announce_training(
    settings: TrainingSettings, num_rows: int, num_held: int, *, pass_seconds: float
) -> None:
    """Say how many steps a training takes at most, and about how long.

    Args:
        settings: Epochs and batch size.
        num_rows: Training rows N.
        num_held: Validation rows, scored after each epoch.
        pass_seconds: What one pass of all training rows took without gradients.
    """
    steps = settings.num_steps(num_rows)
    held = pass_seconds * num_held / num_rows
    seconds = settings.epochs * (BACKWARD * pass_seconds + held) + STEP_SECONDS * steps
    each = math.ceil(num_rows / settings.batch_size)
    most = " at most" if num_held else ""
    tell(
        f"{num_rows:,} rows, {settings.epochs} epochs of {each:,} steps: {steps:,} steps{most}, "
        f"about {duration(seconds)}"
    )


def duration(seconds: float) -> str:
    """Return a time as a person says it: `20 s`, `7 min`, `3 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
