"""Another posterior, other rows or other classes for a finished network."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from bayeslora import options
from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.checkpoint import ADAPTED, ModelRecord
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import (
    TASK,
    Examples,
    class_names,
    data_hash,
    dropped_by_split,
    encode_labels,
)
from bayeslora.engine.build import check_combination, check_last_layer, last_layer, rows_to_fit
from bayeslora.engine.data import check_images, classes_for, columns_of, encode_for, most_options
from bayeslora.engine.fitted.card import fit_options, learnt_from, method_name
from bayeslora.engine.fitted.pieces import Drawing, predict_rows, predict_texts
from bayeslora.engine.network import Network, feature_rows, prepare
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import num_passes
from bayeslora.engine.progress import progress_bar, quiet_transformers
from bayeslora.engine.training.base import Training
from bayeslora.engine.training.final_fit import final_fit, fit_frozen, fit_last_layer
from bayeslora.errors import InputError
from bayeslora.metrics.rowwise import row_scores
from bayeslora.metrics.scores import Scores, without_nan
from bayeslora.posteriors import registry
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.feature_scores import settled_scores
from bayeslora.posteriors.types import Features
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

# Zero mistakes on 59 rows mean an accuracy above 0.95 at 95 % confidence: 0.95 ** 59 < 0.05.
_TELLING_ROWS = 59
# Loss by the posterior's spread, in nats, before a warning, and its certainty.
_WORSE, _STANDARD_ERRORS, _FEWEST_ROWS = 0.05, 2, 20
Known = tuple[Examples, PreparedTexts, Features]
"""Rows as they were read, as a network reads them, and with its features."""

_RECORDED_SCORES = ("accuracy", "nll", "ece")


def check_takes(network: Network, config: Posterior) -> None:
    """Raise InputError if a posterior cannot be fitted to a finished network.

    Raises:
        InputError: `config` cannot be fitted to this network, or there is no single last layer.
    """
    sites, record = network.sites, network.record
    # Gates that belong to the adapter stay with it.
    gated = network.companion is None and any(site.is_gated for site in sites)
    gated_by = network.posterior.name if gated else ""
    check_last_layer(config, adapted=network.is_adapted, gated_by=gated_by)
    if record.adapter is not None and record.backbone["kind"] == ADAPTED:
        check_combination(network.plan.adapter, config)
    registry.check_factors(config, low_rank=all(site.has_factors for site in sites))
    if len(network.members) != 1:
        raise InputError(
            "an ensemble has no single last layer to calibrate", code="several-networks"
        )


def with_posterior(network: Network, config: Posterior) -> Network:
    """Return the same network with an unfitted posterior that starts from the current mean.

    Args:
        network: The finished network; unchanged.
        config: Options of a posterior that it takes; see `check_takes`.
    """
    record, plan = network.record, network.plan
    start, shared = config.start_from(network.head), plan.format == "options"
    head = last_layer(config, start, plan.seed, shared=shared)
    centre = network.head.prior_centre()
    if record.adapter is not None and not record.num_train:  # the language model's answer
        centre = network.head.mean_weight
    if centre is not None:
        head.set_prior_mean(centre, start=False)
    new = Network(network.encoder, network.sites, head)
    new.weights = registry.build_weights(config, new, plan.seed)
    new.to(network.feature_scale.device)
    new.feature_scale.copy_(network.feature_scale)
    changed = replace(
        record,
        posterior=options.as_mapping(config),
        data={"before": fit_options(record)},
        versions=record.versions | registry.provider(config),
    )
    return new.finished(changed, network.members, progress=network.progress)


def refit(
    network: Network,
    train: Known,
    validation: Known | None,
    columns: DataColumns,
    feature_scores: Sequence[str] | None = (),
) -> None:
    """Fit the posterior of a network from `with_posterior` in place, and record it.

    Args:
        network: The network.
        train: Labelled rows, from `known`.
        validation: Held-out rows, from `known`, or None.
        columns: Columns that the data was read from.
        feature_scores: Names of scores to fit as well; None for the default ones.

    Raises:
        InputError: The data is not allowed.
    """
    (examples, texts, rows), config = train, network.posterior
    held_examples, held_texts, held_out = (None, None, None) if validation is None else validation
    plan = Plan(
        posterior=config,
        feature_scores=feature_scores,
        seed=network.record.seed,
        progress=network.progress,
    )
    fit = final_fit(network, plan, texts, held_texts)
    if config.before_last_layer(fit):
        rows = feature_rows(network, texts)
    predicted = rows.double().logits(network.head.mean_weight.double()).argmax(1)
    accuracy = (predicted == rows.targets).double().mean().item()
    if accuracy == 1 and len(predicted) >= _TELLING_ROWS:
        logger.warning(
            "%s: the network classifies all %d rows correctly. If it was trained on them, the "
            "posterior will be overconfident: use rows that it has not seen",
            *(examples.source, len(predicted)),
        )
    chosen = fit_last_layer(network, plan, fit, rows, held_out)
    record = refitted_record(
        network.record,
        network,
        examples,
        held_examples,
        columns=columns,
        # Drop the fit's validation results, which were measured under another posterior.
        results={
            "posterior": chosen,
            "calibration": {
                "rows": len(examples),
                "accuracy": accuracy,
                "validation_rows": 0 if held_examples is None else len(held_examples),
                "fitted_to": learnt_from(config, has_validation=validation is not None),
            },
        },
    )
    network.finished(record, progress=network.progress)


def refitted_record(
    record: ModelRecord,
    network: Network,
    train: Examples,
    validation: Examples | None,
    *,
    columns: DataColumns,
    results: dict[str, Any],
) -> ModelRecord:
    """Return the record of a model whose last layer was fitted to other rows.

    Args:
        record: Record of the model before.
        network: Network with the fitted last layer.
        train: Rows that it was fitted to.
        validation: Held-out rows, or None.
        columns: Columns that the rows were read from.
        results: Results of the fit; those on the network are taken over.
    """
    of_network = {name: value for name, value in record.results.items() if name == "adapter"}
    return replace(
        record,
        columns=columns.recorded(),
        num_train=len(train),
        data={
            "before": fit_options(record),
            "train": data_hash(train),
            "validation": None if validation is None else data_hash(validation),
        },
        dropped=dropped_by_split(train=train, validation=validation),
        head=network.head.extra_config(),
        feature_scores=network.feature_scores.extra_config(),
        results=results | of_network,
    )


def prepare_rows(network: Network, rows: Examples) -> PreparedTexts:
    """Return rows prepared for a finished network; warn about truncated texts."""
    labels = torch.from_numpy(encode_for(network.record, rows))
    room = len(classes_for(network.record, most_options(rows)))
    with quiet_transformers():
        return prepare(network.encoder, (rows, labels), progress=network.progress, num_options=room)


def known(network: Network, rows: Examples, *, to_fit: bool = False) -> Known:
    """Return labelled rows with their features, which no posterior of the last layer changes.

    Args:
        network: The finished network.
        rows: Labelled rows.
        to_fit: Whether a last layer is fitted to them; see `rows_to_fit`.

    Raises:
        InputError: A label is unknown.
    """
    plan = network.plan
    texts = prepare_rows(network, rows_to_fit(rows, plan.format, plan.seed) if to_fit else rows)
    return rows, texts, feature_rows(network, texts)


def answers(network: Network, rows: Known, num_samples: int | None = None) -> Predictions:
    """Return the predictions of rows with known features."""
    drawing = Drawing.of(network.posterior, num_samples=num_samples)
    examples, texts, features = rows
    passes = num_passes(network.posterior, num_samples, len(network.members))
    total = passes * len(examples)
    with progress_bar("predict", total, shown=network.progress, unit="text") as advance:
        return predict_texts(network, examples, texts, drawing, advance=advance, features=features)


def scores_of(network: Network, rows: Known) -> Scores:
    """Return the scores of labelled rows; an unfitted posterior is scored at its mean."""
    from bayeslora.metrics.evaluate import evaluate

    is_fitted = bool(network.record.num_train)
    return evaluate(
        answers(network if is_fitted else with_posterior(network, registry.own_softmax()), rows)
    )


def compared(before: Scores, after: Scores) -> dict[str, Any]:
    """Return scores of the same rows before and after calibration, for the record."""
    return {
        key: without_nan({"before": asdict(before[key]), "after": asdict(after[key])})
        for key in _RECORDED_SCORES
    }


def measured(network: Network, rows: Examples) -> dict[str, Any]:
    """Return NLL and accuracy on labelled rows, for the record.

    They are those of the saved classifier's default predictions with all its members.
    """
    predictions = predict_rows(network, rows, say=False)
    scores = row_scores(predictions)
    metrics: dict[str, Any] = {
        "validation_nll": float(scores.nll.mean()),
        "validation_accuracy": float(scores.correct.mean()),
    }
    for task in network.record.tasks:
        own = np.asarray(predictions.columns[TASK]) == task
        if own.any():
            metrics.setdefault("validation_tasks", {})[task] = {
                "nll": float(scores.nll[own].mean()),
                "accuracy": float(scores.correct[own].mean()),
                "num_rows": int(own.sum()),
            }
    return metrics


def say_too_wide(network: Network, rows: Known) -> None:
    """Warn if the spread of a last layer's posterior makes its predictions much worse.

    The cause is a prior that is too wide: its draws drown the information of the rows, and more
    draws do not help. The mean weights alone then predict better.

    Args:
        network: The finished network.
        rows: Labelled rows, preferably held out.
    """
    if network.weights is not None or len(network.members) != 1:
        return
    drawn, mean = (row_scores(answers(network, rows, count)).nll for count in (None, 0))
    loss = drawn - mean
    if len(loss) < _FEWEST_ROWS:
        return
    error = loss.std(ddof=1) / len(loss) ** 0.5
    if loss.mean() > max(_WORSE, _STANDARD_ERRORS * error):
        logger.warning(
            "%s: NLL is %.3f nats with the posterior's spread and %.3f at its mean: the prior "
            "is too wide; choose its scale or precision on validation rows",
            *(rows[0].source, drawn.mean(), mean.mean()),
        )


def for_new_classes(
    fitted: Network,
    posterior: Posterior,
    rows: Examples,
    *,
    columns: DataColumns,
) -> Network:
    """Return a classifier of the classes of some rows; `fitted` is unchanged.

    Args:
        fitted: Classifier whose network computes the features.
        posterior: Posterior of the last layer.
        rows: Labelled rows of the new classes.
        columns: Columns that the rows were read from.

    Raises:
        InputError: See `BayesianClassifier.adapt`.
    """
    record = fitted.record
    if record.backbone["kind"] != ADAPTED or not isinstance(fitted.encoder, Encoder):
        raise InputError(
            f"{method_name(record)} is a classifier of another library, whose classes are fixed; "
            "adapt needs a classifier that was fitted here"
        )
    check_images(rows, images=columns_of(record).images)
    check_last_layer(posterior, adapted=False)
    classes = class_names(rows)
    labels = torch.from_numpy(encode_labels(rows, classes))
    network = _with_head(fitted, posterior, len(classes))
    with quiet_transformers():
        support = prepare(network.encoder, (rows, labels), progress=fitted.progress)
    if record.adapter is not None and fitted.plan.adapter.trains_itself:
        fitted.plan.adapter.merge_for(network, support)
    # Distances between rows need a class with several.
    differ = bool((torch.bincount(labels) > 1).any())
    scores = settled_scores(None, posterior) if differ else ()
    plan = Plan(posterior=posterior, feature_scores=scores, seed=record.seed, progress=False)
    results = {
        "posterior": fit_frozen(Training(network, plan, support)).posterior,
        "history": [],
    }
    new_record = replace(
        refitted_record(record, network, rows, None, columns=columns, results=results),
        posterior=options.as_mapping(posterior),
        classes=list(classes),
        tasks={},
        num_members=1,
        versions=record.versions | registry.provider(posterior),
    )
    return network.finished(new_record, [network.trained_state()], progress=fitted.progress)


def _with_head(fitted: Network, posterior: Posterior, num_classes: int) -> Network:
    """Return a copy of the network that shares its parameters and caches, with an unfitted head."""
    encoder = fitted.encoder
    shared = [*fitted.parameters(), *fitted.members, encoder.backbone.tokenizer]
    shared += [encoder.backbone.prefix_states, encoder.backbone.known]
    copied = copy.deepcopy(fitted, {id(item): item for item in shared})
    head = registry.build_head(
        posterior, encoder.num_features, num_classes, seed=fitted.record.seed
    )
    network = Network(copied.encoder, copied.sites, head)
    return network.to(fitted.feature_scale.device).eval()
