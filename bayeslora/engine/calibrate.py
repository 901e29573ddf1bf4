"""Fit a posterior to labelled rows of a finished network, or choose the best of several.

`for_new_classes` fits a last layer to rows of other classes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from bayeslora import options
from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.checkpoint import ADAPTED, ModelRecord
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import (
    Examples,
    class_names,
    data_hash,
    dropped_by_split,
    encode_labels,
    fitted_hashes,
)
from bayeslora.data.splits import split_examples, stratified_folds
from bayeslora.engine.build import check_combination, check_last_layer, last_layer, rows_to_fit
from bayeslora.engine.card import fit_options, learnt_from, method_name
from bayeslora.engine.data import (
    check_images,
    check_soft,
    classes_for,
    columns_of,
    encode_for,
    most_options,
    read_labelled,
    read_validation,
)
from bayeslora.engine.final_fit import final_fit, fit_frozen, fit_head, fit_last_layer
from bayeslora.engine.network import Network, feature_rows, prepare
from bayeslora.engine.pieces import Drawing, predict_texts
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import num_passes
from bayeslora.engine.progress import progress_bar, quiet_transformers
from bayeslora.engine.training import Training
from bayeslora.engine.training_options import columns_in
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.metrics.compare import Comparison, compare
from bayeslora.metrics.rowwise import row_scores
from bayeslora.metrics.scores import Scores, without_nan
from bayeslora.option_checks import BelowOne, checked
from bayeslora.posteriors import feature_scores as feature_options
from bayeslora.posteriors import registry
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import COMPARED, FOR_FEW_ROWS, own_softmax, resolve_posterior
from bayeslora.posteriors.types import Features
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

# Zero mistakes on 59 rows mean an accuracy above 0.95 at 95 % confidence: 0.95 ** 59 < 0.05.
_TELLING_ROWS = 59

Known = tuple[Examples, PreparedTexts, Features]
"""Rows as they were read, as a network reads them, and with its features."""


def calibrate(
    network: Network,
    posterior: Posterior | None,
    train: Any,
    validation: Any,
    *,
    names: Mapping[str, Any],
    feature_scores: str | Sequence[str] | None = (),
    hold_out: float = 0.0,
) -> tuple[Network, tuple[Scores, Scores] | None, Comparison | None]:
    """Fit a posterior to labelled rows; see `BayesianClassifier.calibrate`.

    Args:
        network: The finished network; unchanged, also if anything fails.
        posterior: Posterior to fit; None for the candidate of lowest cross-validated NLL, or
            `laplace` for fewer rows than `FEWEST_EXAMPLES`.
        train: Rows to fit to.
        validation: Held-out rows, or None.
        names: `ColumnNames` that differ from those of the fit.
        feature_scores: Names of scores to fit as well; None for the default ones.
        hold_out: Share of `train` to use as `validation`, which must be None; 0 for none.

    Returns:
        The network with the posterior, scores of the held-out rows before and after, and the
        comparison of the candidates; None without any.

    Raises:
        InputError: The data is not allowed, or the posterior cannot be fitted to this network.
    """
    check_takes(network, posterior or own_softmax())
    validated, record = validation is not None, network.record
    scores = check_calibration(posterior, feature_scores, hold_out, validated=validated)
    if scores is None and (posterior is None or feature_options.has_one_feature(posterior)):
        scores = tuple(record.feature_scores) or None
    columns = columns_of(record).renamed(**columns_in(names))
    rows = read_labelled(train, columns, record)
    # A point estimate is not fitted to these rows, nor is a temperature with validation rows.
    if learnt_from(posterior, has_validation=validated or bool(hold_out)) == "train":
        check_labels(record, rows)
    held_out = read_validation(validation, columns, rows, record) if validated else None
    parts = rows, held_out
    if hold_out:
        split = split_examples(rows, encode_for(record, rows), hold_out, record.seed)
        parts = rows.take(split[0]), rows.take(split[1])
    new, before_and_after, race = _fitted(
        network, posterior, *parts, columns=columns, feature_scores=scores
    )
    if hold_out:
        results, data = dict(new.record.results), dict(new.record.data)
        results["calibration"] = results["calibration"] | {"hold_out": hold_out}
        data["whole"] = data_hash(rows)
        new.record = replace(new.record, results=results, data=data)
    return new, before_and_after, race


def _fitted(
    network: Network,
    posterior: Posterior | None,
    train: Examples,
    validation: Examples | None,
    *,
    columns: DataColumns,
    feature_scores: Sequence[str] | None,
) -> tuple[Network, tuple[Scores, Scores] | None, Comparison | None]:
    """Fit a posterior to rows that were checked; see `calibrate`."""
    held_out = None if validation is None else known(network, validation)
    rows = None if held_out is None else held_out[2]
    before = None if held_out is None else scores_of(network, held_out)
    fitted_to = known(network, train, to_fit=True)
    features = fitted_to[2]
    race: Comparison | None = None
    if posterior is None and len(features) < FEWEST_EXAMPLES:
        posterior = resolve_posterior(FOR_FEW_ROWS)
    elif posterior is None:
        race = best_posterior(network, features, rows)
        posterior = resolve_posterior(race.reference)
    classes, size = network.head.mean_weight.shape
    posterior = posterior.sized(classes, size, len(train))
    # A new head even if the posterior is the same: the present one may have fixed its means, and
    # remains the classifier's if the fit fails.
    try:
        # Options have no feature in common.
        names = () if network.plan.format == "options" else feature_scores
        names = feature_options.settled_scores(names, posterior)
        new = with_posterior(network, posterior)
        refit(new, fitted_to, held_out, columns, names)
    except BaseException:
        # Both share the adapters, which an unfinished search may have rotated.
        network.load_trained_state(network.members[0])
        raise
    results = dict(new.record.results)
    scores: tuple[Scores, Scores] | None = None
    if held_out is not None and before is not None:
        scores = before, scores_of(new, held_out)
        results["validation"] = {
            key: without_nan({"before": asdict(before[key]), "after": asdict(scores[1][key])})
            for key in ("accuracy", "nll", "ece")
        }
        nll = [each["nll"].value for each in scores]
        if nll[1] - nll[0] >= 0.0005:  # which three digits show
            logger.warning(
                "on the validation rows, the NLL with posterior %r, %.3f nats, is above that "
                "before, %.3f",
                *(posterior.name, nll[1], nll[0]),
            )
    if race is not None:
        results["comparison"] = recorded_race(race)
    new.record = replace(new.record, results=results)
    return new, scores, race


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
    if checked("hold_out", hold_out, BelowOne) and validated:
        raise InputError(
            "hold_out and validation each provide held-out rows; use only one of them",
            code="clash",
            options=("hold_out", "validation"),
        )
    names = feature_options.feature_scores(feature_scores)
    if posterior is not None:
        feature_options.check_feature_scores(names, posterior)
    return names


def check_labels(record: ModelRecord, rows: Examples) -> None:
    """Raise InputError if all rows are of one class.

    Raises:
        InputError: All rows are of one class, or a label is unknown.
    """
    counts = np.bincount(encode_for(record, rows))
    if rows.choices is None and np.count_nonzero(counts) == 1:  # letters are not classes
        raise InputError(
            f"{rows.source}: all {len(rows)} rows have the label "
            f"{record.classes[int(counts.argmax())]!r}; a posterior needs rows of every class"
        )


def check_takes(network: Network, config: Posterior) -> None:
    """Raise InputError if a posterior cannot be fitted to a finished network.

    Raises:
        InputError: `config` cannot be fitted to this network, or there is no single last layer.
    """
    sites, record = network.sites, network.record
    # Gates that belong to the adapter stay with it.
    gated = network.companion is None and any(site.is_gated for site in sites)
    gated_by = network.posterior.name if gated else ""
    adapted = bool(sites) or network.companion is not None
    check_last_layer(config, adapted=adapted, gated_by=gated_by)
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
        data={"before": fit_options(record), **fitted_hashes(train, validation)},
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


def scores_of(network: Network, rows: Known) -> Scores:
    """Return the scores of labelled rows; an unfitted posterior is scored at its mean."""
    from bayeslora.metrics.evaluate import evaluate

    if not network.record.num_train:
        network = with_posterior(network, registry.own_softmax())
    examples, texts, features = rows
    drawing = Drawing.of(network.posterior)
    total = num_passes(network.posterior, None, len(network.members)) * len(examples)
    with progress_bar("predict", total, shown=network.progress, unit="text") as advance:
        return evaluate(
            predict_texts(network, examples, texts, drawing, advance=advance, features=features)
        )


FEWEST_EXAMPLES = 20
"""Examples below which no difference is worth a table."""

FOLDS = 5

MOST_DRAWS = 200
"""Draws of a candidate's link: enough to rank by NLL, and a fifth of the time."""

_KEYS = ("accuracy", "nll", "ece", "overconfidence")


def recorded_race(race: Comparison) -> dict[str, Any]:
    """Return a comparison of candidates as plain mappings, lists and numbers, for the record."""
    content = race.to_json()
    rows = [
        {
            "posterior": row["name"],
            "scores": row["scores"],
            "nll_difference": row["differences"]["nll"],
            "p": row["p_holm"].get("nll"),
        }
        for row in content["rows"]
    ]
    return {"n": race.n, "folds": FOLDS, "chosen": race.reference, "rows": rows}


def best_posterior(network: Network, train: Features, held_out: Features | None) -> Comparison:
    """Compare the candidates by cross-validation, and choose the one of lowest NLL.

    Args:
        network: The classifier as it is.
        train: At least `FEWEST_EXAMPLES` examples to cross-validate on.
        held_out: Held-out examples, on which candidates choose their options.
    """
    classes, size = network.head.mean_weight.shape
    configs = {name: resolve_posterior(name).sized(classes, size, len(train)) for name in COMPARED}
    predictions = _cross_fitted(network, configs, train, held_out)
    best = min(predictions, key=lambda name: row_scores(predictions[name]).nll.mean())
    return compare(list(predictions.values()), reference=best, scores=_KEYS)


def _cross_fitted(
    network: Network, configs: Mapping[str, Posterior], train: Features, held_out: Features | None
) -> dict[str, Predictions]:
    """Return each candidate's predictions of the examples, by fits that an example did not enter.

    Args:
        network: The classifier.
        configs: Options by name.
        train: Examples to cross-validate on.
        held_out: Held-out examples, on which candidates choose their options.
    """
    labels, classes = train.targets.cpu().numpy(), tuple(network.record.classes)
    fold = torch.from_numpy(stratified_folds(labels, FOLDS, network.record.seed))
    fold = fold.to(train.values.device)
    predictions = {}
    total = FOLDS * len(configs)
    bar = progress_bar("compare", total, shown=network.progress, unit="fit")
    with _without_notes(), bar as advance:
        for name, config in configs.items():
            few_draws: Any = config
            if config.link is not None and config.num_samples is not None:
                few_draws = replace(few_draws, num_samples=min(config.num_samples, MOST_DRAWS))
            probs = np.empty((len(train), len(classes)))
            for part in range(FOLDS):
                rows = fold == part
                new = with_posterior(network, few_draws)
                fit_head(new, train.take(~rows), held_out)
                logits = new.head.predict(train.take(rows))
                drawn = link_probabilities(logits, **few_draws.drawing).probs
                probs[rows.cpu().numpy()] = drawn.cpu().numpy()
                advance(1)
            predictions[name] = Predictions(probs, classes, labels, name=name)
    return predictions


@contextmanager
def _without_notes() -> Iterator[None]:
    """Hide warnings of the candidates' fits, such as a prior at the edge of its grid."""
    logger = logging.getLogger("bayeslora")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def for_new_classes(
    fitted: Network, posterior: Posterior, rows: Examples, *, columns: DataColumns
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
    check_soft(rows, posterior)
    classes = class_names(rows)
    labels = torch.from_numpy(encode_labels(rows, classes))
    network = _with_head(fitted, posterior, len(classes))
    with quiet_transformers():
        support = prepare(network.encoder, (rows, labels), progress=fitted.progress)
    if record.adapter is not None and fitted.plan.adapter.trains_itself:
        fitted.plan.adapter.merge_for(network, support)
    # Distances between rows need a class with several.
    differ = bool((torch.bincount(labels) > 1).any())
    scores = feature_options.settled_scores(None, posterior) if differ else ()
    plan = Plan(posterior=posterior, feature_scores=scores, seed=record.seed, progress=False)
    results = {"posterior": fit_frozen(Training(network, plan, support)).posterior, "history": []}
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
