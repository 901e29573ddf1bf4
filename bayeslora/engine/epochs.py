"""Default epochs of a fit."""

from __future__ import annotations

from bayeslora.posteriors.base import Posterior

DEFAULT_EPOCHS = 5
DEFAULT_EPOCHS_LONG = 15
FULL_ROWS = 128
"""Fits to fewer rows take as many steps as one to this many (`benchmarks.label_budget`)."""


def default_epochs(
    posterior: Posterior | type[Posterior], num_rows: int, *, validated: bool
) -> int:
    """Return the default number of epochs.

    Without validation rows to stop training it is short, since adapters separate the training rows
    early.

    Args:
        posterior: Posterior or its class.
        num_rows: Number of training rows.
        validated: Whether there are validation rows.
    """
    if validated and posterior.chooses_epoch:
        return DEFAULT_EPOCHS_LONG
    return round(DEFAULT_EPOCHS * max(1.0, FULL_ROWS / num_rows))
