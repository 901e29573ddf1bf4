"""Fit a posterior to labelled rows of a finished network, beside others on the same rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bayeslora.checkpoint import ModelRecord
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, data_hash
from bayeslora.data.splits import split_examples
from bayeslora.engine import formats
from bayeslora.engine.data import check_hold_out, encode_for
from bayeslora.engine.fitted.refit import (
    answers,
    compared,
    known,
    refit,
    say_too_wide,
    scores_of,
    with_posterior,
)
from bayeslora.engine.fitted.side_by_side import (
    FEWEST_EXAMPLES,
    SideBySide,
    beside_others,
    best_posterior,
)
from bayeslora.engine.network import Network
from bayeslora.errors import InputError
from bayeslora.metrics.scores import Scores
from bayeslora.posteriors import feature_scores as feature_options
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import own_softmax

logger = logging.getLogger(__name__)


def calibrate(
    network: Network,
    posterior: Posterior | None,
    train: Examples,
    validation: Examples | None,
    *,
    columns: DataColumns,
    feature_scores: Sequence[str] | None = (),
    hold_out: float = 0.0,
) -> tuple[Network, tuple[Scores, Scores] | None, SideBySide | None]:
    """Fit a posterior to labelled examples; see `check_takes`.

    Args:
        network: The finished network; unchanged, also if anything fails.
        posterior: Posterior to fit; None for the candidate of lowest cross-validated NLL.
        train: Examples to fit to.
        validation: Held-out examples, or None.
        columns: Columns that the data was read from.
        feature_scores: Names of scores to fit as well; None for the default ones.
        hold_out: Share of `train` to use as `validation`, which must be None; 0 for none.

    Returns:
        The network with the posterior, scores of the held-out examples before and after, and the
        comparison with other posteriors; None without any.

    Raises:
        InputError: The data is not allowed, or the posterior cannot be fitted to this network.
    """
    record, whole = network.record, train
    if hold_out:
        labels = encode_for(record, whole)
        train_rows, validation_rows = split_examples(whole, labels, hold_out, record.seed)
        train, validation = whole.take(train_rows), whole.take(validation_rows)
    held_out = None if validation is None else known(network, validation)
    rows = None if held_out is None else held_out[2]
    before = None if held_out is None else scores_of(network, held_out)
    fitted_to = known(network, train, to_fit=True)
    features = fitted_to[2]
    race: SideBySide | None = None
    if posterior is None:
        posterior, race = best_posterior(network, features, rows)
    classes, size = network.head.mean_weight.shape
    posterior = posterior.sized(classes, size, len(train))
    # A new head even if the posterior is the same: the present one may have fixed its means, and
    # remains the classifier's if the fit fails.
    try:
        names = formats.feature_scores(network.plan.format, feature_scores)
        new = with_posterior(network, posterior)
        refit(new, fitted_to, held_out, columns, feature_options.settled_scores(names, posterior))
        if race is None:
            race = beside_others(
                network, posterior, features, rows, lambda: answers(new, held_out or fitted_to)
            )
    except BaseException:
        # Both share the adapters, which an unfinished search may have rotated.
        network.load_trained_state(network.members[0])
        raise
    results, data = dict(new.record.results), dict(new.record.data)
    scores: tuple[Scores, Scores] | None = None
    if held_out is not None and before is not None:
        say_too_wide(new, held_out)
        scores = before, scores_of(new, held_out)
        results["validation"] = compared(*scores)
    if race is None:
        _say_too_few(posterior, len(rows or features))
    else:
        for note in race.notes:
            logger.warning("%s", note)
        results["comparison"] = race.to_json()
    if hold_out:
        results["calibration"] = results["calibration"] | {"hold_out": hold_out}
        data["whole"] = data_hash(whole)
    new.record = replace(new.record, results=results, data=data)
    return new, scores, race


def _say_too_few(posterior: Posterior, examples: int) -> None:
    """Warn if the examples are too few to compare the posterior with the network's softmax."""
    if examples < FEWEST_EXAMPLES and posterior.name != own_softmax().name:
        logger.warning(
            "%d examples are too few to compare %r with the network's own softmax (at least %d are "
            "needed), so it may be worse",
            examples,
            posterior.name,
            FEWEST_EXAMPLES,
        )


def check_calibration(
    posterior: Posterior | None,
    feature_scores: str | Sequence[str] | None,
    hold_out: float,
    *,
    validated: bool,
) -> Sequence[str] | None:
    """Check the options of a calibration, for which no model is needed.

    Args:
        posterior: Options of the posterior; None to choose the best.
        feature_scores: Names of scores to fit as well; None for the default ones.
        hold_out: Share of the rows to use as validation rows.
        validated: Whether there are validation rows.

    Returns:
        The names of the scores, or None.

    Raises:
        InputError: An option is not allowed.
    """
    check_hold_out(hold_out, validated=validated)
    names = feature_options.feature_scores(feature_scores)
    if posterior is not None:
        feature_options.check_feature_scores(names, posterior)
    return names


def check_labels(record: ModelRecord, rows: Examples, *, moves: bool) -> None:
    """Raise InputError if all rows are of one class, and warn about classes without rows.

    Args:
        record: Record of the classifier.
        rows: Rows to fit a posterior to.
        moves: Whether that posterior fits its own mean, from these rows alone.

    Raises:
        InputError: All rows are of one class, or a label is unknown.
    """
    if rows.choices is not None:  # letters are not classes
        encode_for(record, rows)
        return
    classes = record.classes
    counts = np.bincount(encode_for(record, rows), minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if len(missing) == len(classes) - 1:
        only = classes[int(counts.argmax())]
        raise InputError(
            f"{rows.source}: all {len(rows)} rows have the label {only!r}; a posterior needs rows "
            "of every class"
        )
    if missing and moves:
        logger.warning(
            "%s: no row of %s; a posterior fitted to the other classes lowers its probability",
            rows.source,
            ", ".join(map(repr, missing)),
        )
