"""How long a fit will take and how much its posterior will hold, said before it starts."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from bayeslora.plain_text import counted
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.cost import FitCost, affordable, multiplication_rate
from bayeslora.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

BACKWARD = 3.0
"""A training step against a pass of the same texts: forward, and twice as much backward."""

STEP_SECONDS = 0.01
"""What a step takes besides: the Trainer's loop, the optimiser, the head."""

WORTH_SAYING = 5.0
"""Seconds of a final fit alone from which it is announced."""


@dataclass(frozen=True)
class TrainingSizes:
    """Sizes of a problem.

    Attributes:
        num_classes: C.
        num_features: d.
        num_rows: Training rows N.
        num_held: Validation rows that score each epoch; 0 where none do.
    """

    num_classes: int
    num_features: int
    num_rows: int
    num_held: int = 0


def settle_posterior(posterior: Posterior, sizes: TrainingSizes) -> Posterior:
    """Return the posterior with the covariance that it will have; log where it is not a dense one.

    Args:
        posterior: What was asked for; an explicit covariance is obeyed.
        sizes: Of the problem.
    """
    classes, features, rows = sizes.num_classes, sizes.num_features, sizes.num_rows
    chosen: Posterior = affordable(posterior, classes, features, rows)
    dearest, cost = posterior.variants(classes, features, rows)[0]
    if chosen != dearest:
        logger.warning(
            "a %s covariance of %d classes and %d features, fitted to %d rows, would take "
            "about %s and %.0f MB, so it is %s; %s:covariance=%s forces it",
            dearest.covariance,
            classes,
            features,
            rows,
            duration(cost.seconds(multiplication_rate())),
            cost.megabytes,
            getattr(chosen, "covariance", "simpler"),
            posterior.name,
            dearest.covariance,
        )
    return chosen


def announce_final_fit(posterior: Posterior, sizes: TrainingSizes, *, shown: bool) -> None:
    """Log what the final fit takes, where it takes long.

    Args:
        posterior: Which one.
        sizes: Of the problem.
        shown: Whether to estimate it.
    """
    cost = _dearest(posterior, sizes)
    if not shown or not cost.multiplications:
        return
    seconds = cost.seconds(multiplication_rate())
    if seconds >= WORTH_SAYING:
        logger.info(
            "final fit: %s of %d classes, about %s, %.0f MB",
            posterior.name,
            sizes.num_classes,
            duration(seconds),
            cost.megabytes,
        )


def announce_training(
    settings: TrainingSettings,
    posterior: Posterior,
    sizes: TrainingSizes,
    *,
    pass_seconds: float,
) -> None:
    """Log how many steps a training takes at most, and about how long.

    Args:
        settings: Epochs and batch size.
        posterior: Fitted again after each epoch that validation rows score.
        sizes: Of the problem.
        pass_seconds: What one pass of all training rows took without gradients.
    """
    rows, epochs = sizes.num_rows, settings.epochs
    steps = math.ceil(rows / settings.batch_size)
    each = BACKWARD * pass_seconds + STEP_SECONDS * steps
    if sizes.num_held:
        each += pass_seconds * sizes.num_held / rows
        if (cost := _dearest(posterior, sizes)).multiplications:
            each += cost.seconds(multiplication_rate())
    logger.info(
        "%s, %s%s of %s: %s, about %s",
        counted(rows, "row"),
        counted(epochs, "epoch"),
        " at most" if sizes.num_held else "",
        counted(steps, "step"),
        counted(settings.num_steps(rows), "step"),
        duration(epochs * each),
    )


def _dearest(posterior: Posterior, sizes: TrainingSizes) -> FitCost:
    """Return the cost of a final fit, the dearest one where the posterior leaves it open."""
    return posterior.variants(sizes.num_classes, sizes.num_features, sizes.num_rows)[0][1]


def duration(seconds: float) -> str:
    """Return a time as a person says it: `20 s`, `7 min`, `3 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
