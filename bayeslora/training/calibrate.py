"""Giving a finished network a posterior, and saying how it does beside the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.config_scores import check_feature_scores, settled_scores
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.examples import Examples
from bayeslora.training.estimate import TrainingSizes, announce_final_fit, settle_posterior
from bayeslora.training.fitted import Fitted
from bayeslora.training.side_by_side import (
    CANDIDATES,
    FEWEST_EXAMPLES,
    SideBySide,
    beside_others,
    best_posterior,
)

logger = logging.getLogger(__name__)


def calibrate(
    fitted: Fitted,
    posterior: Posterior | None,
    train: Examples,
    validation: Examples | None,
    *,
    columns: DataColumns,
    feature_scores: Sequence[str] | None = (),
) -> Fitted:
    """Return the network with a posterior fitted to labelled examples; see `Fitted.check_takes`.

    Args:
        fitted: The classifier as it is; it stays as it is where anything fails.
        posterior: What to fit; None takes the candidate of lowest cross-validated NLL.
        train: Examples to fit to.
        validation: Held-out examples, or None.
        columns: Where the data came from.
        feature_scores: Names of scores to fit as well; None takes the usual ones.

    Raises:
        InputError: The data is not allowed, or the posterior cannot be fitted to this network.
    """
    held = None if validation is None else fitted.known(validation)
    rows = None if held is None else held.rows
    before = None if held is None else fitted.scores_of(held)
    known = fitted.known(train)
    race: SideBySide | None = None
    if posterior is None:
        posterior, race = best_posterior(fitted, known.rows, rows)
        check_feature_scores(feature_scores, posterior)
    sizes = TrainingSizes(len(fitted.record.classes), known.rows.features.shape[1], len(train))
    posterior = settle_posterior(posterior, sizes)
    announce_final_fit(posterior, sizes, shown=fitted.progress)
    # A new head even where the posterior stays: the present one may have settled on means, and is
    # still the classifier's where the fit fails.
    try:
        scores = settled_scores(feature_scores, posterior)
        new = fitted.with_posterior(posterior).calibrated(known, held, columns, scores)
        if race is None:
            race = beside_others(
                fitted, posterior, known.rows, rows, lambda: new.answers(held or known)
            )
    except BaseException:
        # Both share the adapters, which a search turns before it ends.
        fitted.network.load_trained_state(fitted.members[0])
        raise
    if held is not None and before is not None:
        new.say_too_wide(held)
        new = new.compared(before, held)
    if race is None:
        _say_too_few(posterior, len((rows or known.rows).labels))
    return new if race is None else _recorded(new, race)


def _say_too_few(posterior: Posterior, examples: int) -> None:
    """Log that few examples leave a posterior without a comparison; its own softmax needs none."""
    if examples < FEWEST_EXAMPLES and posterior.name != CANDIDATES[0]:
        logger.warning(
            "%d examples are too few to compare %r with the network's own softmax, so it may be "
            "worse; from %d on they are compared",
            examples,
            posterior.name,
            FEWEST_EXAMPLES,
        )


def _recorded(fitted: Fitted, race: SideBySide) -> Fitted:
    """Return the same with the comparison in its record, and log what follows from it."""
    for note in race.notes:
        logger.warning("%s", note)
    results = {**fitted.record.results, "comparison": race.to_json()}
    record = replace(fitted.record, results=results)
    return replace(fitted, record=record, side_by_side=race)
