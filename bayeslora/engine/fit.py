"""The complete fit: from checked data to a fitted classifier."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from bayeslora import options
from bayeslora.adapters.base import USUAL_LAYERS, layers_that_answer
from bayeslora.adapters.registry import provider as adapter_provider
from bayeslora.backbones.depth import cut, num_layers, read_as_asked, recorded_reading, usual_depth
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.tokens import check_max_length
from bayeslora.checkpoint import ADAPTED, ModelRecord, library_versions
from bayeslora.engine import formats
from bayeslora.engine.adapter_start import read_texts
from bayeslora.engine.build import adapter_for, best_depth, pooling_of
from bayeslora.engine.checkpoints import abandon, claim, refuse, restored
from bayeslora.engine.class_prior import ClassPrior, class_prior
from bayeslora.engine.cross_validation import (
    as_chosen,
    cross_validate,
    split_off,
    what_was_chosen,
)
from bayeslora.engine.data import check_images
from bayeslora.engine.ensemble import Part, fit_members
from bayeslora.engine.final_fit import TrainingSizes, settle_posterior
from bayeslora.engine.fit_checks import check_division, check_fit, fit_plan
from bayeslora.engine.loop import FitResult
from bayeslora.engine.model import FittedModel
from bayeslora.engine.network import Network
from bayeslora.engine.settings import Choices, TrainingData, TrainingSettings
from bayeslora.engine.trainer import Restore, nothing_to_restore
from bayeslora.errors import DivergedError, InputError
from bayeslora.posteriors.feature_scores.options import (
    settled_scores,
)
from bayeslora.posteriors.registry import provider
from bayeslora.processes import current
from bayeslora.tasks.examples import data_hash

logger = logging.getLogger(__name__)


def fit_classifier(
    choices: Choices,
    data: TrainingData,
    settings: TrainingSettings,
    load: Callable[[], Backbone],
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> FittedModel:
    """Fit a classifier, resuming an interrupted fit with the same options in `out`.

    Several processes fit it together inside `processes.together`; only the first accesses `out`.

    Args:
        choices: Choices for the classifier.
        data: Training and validation data.
        settings: Training options.
        load: Returns the backbone; called after all checks that do not need it.
        out: Directory for the model, and for checkpoints until it is saved; None for none.
        overwrite: Whether the content of `out` may be replaced.

    Raises:
        InputError: An option is not allowed, `max_length` exceeds the backbone's positions, or
            `out` holds something else.
        MissingAssetError: The posterior needs a package that is not installed.
    """
    choices = formats.settled(choices, data.train[0])
    all_data = data
    if settings.hold_out:
        check_division(choices, data, settings)
        data = split_off(data, settings.hold_out, settings.seed)
    final = all_data if settings.refit else data
    check_fit(choices, data, settings)
    choices = _with_defaults(choices, data, settings)
    if data.tasks and choices.verbaliser is None:
        choices = replace(choices, verbaliser="none")  # class names are `task: class`, not words
    held_out = None if data.validation is None else data.validation[0]
    planned = _planned(choices, final, settings)
    # The record keeps the requested options, so that a later `calibrate` chooses on its own rows.
    choices = replace(
        choices, posterior=choices.posterior.settled(fit_plan(choices, data, settings))
    )
    identity: dict[str, Any] = {**planned, **final.hashes()}
    if out is not None:
        current().first(partial(refuse, out, identity, overwrite=overwrite))
    whole, backbone = _read(choices, data, load())
    choices = _settled(choices, data, backbone, len(final.train[0]))
    # `identity` keeps the requested options.
    posterior = choices.posterior
    settled = {name: getattr(posterior, name) for name in posterior.settled_options}
    planned |= {
        "posterior": planned["posterior"] | settled,
        "adapter": choices.adapter.recorded(),
    }
    reading = _reading(choices, backbone, final)
    identity["weights of the backbone"] = backbone.fingerprint
    identity |= {"depth": None, "template": None, "verbaliser": None} | reading
    begin, restore = _claims(out, identity, overwrite=overwrite)
    fit = partial(
        fit_members,
        data=data,
        settings=settings,
        backbone=backbone,
        begin=begin,
        prior=_prior(choices, data, whole),
        restore=restore,
    )
    if held_out is not None and posterior.scales_logits:
        choices = replace(choices, logit_scale=None)
    try:
        if settings.keep_folds:
            network, members, results, learnt = _kept_folds(fit, choices, data, settings)
        else:
            choices, stops, learnt = _by_parts(fit, choices, data, settings)
            network, members, results = fit(choices, data=final, stops=stops, say=not learnt)
    except DivergedError:
        if out is not None and current().is_first:
            abandon(out)
        raise
    _say_advice(network, results)
    planned["backbone"] |= reading | {
        "fingerprint": backbone.fingerprint,
        "settings": backbone.settings,
        "kind": ADAPTED,
    }
    providers = adapter_provider(choices.adapter) | provider(choices.posterior)
    undivided: dict[str, str | None] = {}
    if settings.hold_out:
        undivided = {"whole": data_hash(all_data.train[0])}
    record = ModelRecord(
        **planned,
        head=network.head.extra_config(),
        feature_scores=network.feature_scores.extra_config(),
        num_members=len(members),
        tasks=data.tasks,
        across_tasks=data.across_tasks,
        data=final.hashes() | undivided,
        dropped=all_data.dropped(),  # counted before the division
        results=dataclasses.asdict(results[0]) | learnt,
        versions=library_versions() | providers,
    )
    fitted = FittedModel(record, network, members, choices.progress)
    return fitted if held_out is None or settings.refit else fitted.measured(held_out)


def _claims(
    out: str | Path | None, identity: Mapping[str, Any], *, overwrite: bool
) -> tuple[Callable[[], Path | None], Restore]:
    """Return functions that claim `out` before the fit, and again if it was deleted."""
    if out is None:
        return lambda: None, nothing_to_restore
    return (
        lambda: current().first(partial(claim, out, identity, overwrite=overwrite)),
        lambda: restored(out, identity, overwrite=overwrite),
    )


def _say_advice(network: Network, results: Sequence[FitResult]) -> None:
    """Log the advice of the members' gates, each advice once."""
    if network.conditioning is None:
        return
    for advice in dict.fromkeys(network.conditioning.advice(result.adapter) for result in results):
        if advice:
            logger.warning("%s", advice)


def _settled(choices: Choices, data: TrainingData, backbone: Backbone, num_rows: int) -> Choices:
    """Return the choices with options that depend on the backbone: covariance and adapted layers.

    Args:
        choices: The requested choices.
        data: Training data.
        backbone: Backbone at its depth.
        num_rows: Training rows of the last fit.
    """
    posterior = settle_posterior(choices.posterior, _sizes(choices, data, backbone, num_rows))
    adapter = choices.adapter.with_layers(_layers(choices, backbone))
    return replace(choices, posterior=posterior, adapter=adapter)


def _prior(choices: Choices, data: TrainingData, whole: Backbone) -> ClassPrior | None:
    """Return the language model's rows for the classes; None for a prior mean of zero."""
    adapter = choices.adapter
    return class_prior(
        whole,
        data.classes,
        choices.verbaliser,
        data.train[0],
        at_once=choices.posterior.starts_over(
            adapter_trains=adapter.trains and adapter.episodes is None
        ),
        leads=choices.format == "letters",
    )


def _layers(choices: Choices, backbone: Backbone) -> int:
    """Return the default number of adapted layers, larger for a language model that answers."""
    answers = choices.format == "options" and backbone.kind == "decoder"
    return layers_that_answer(num_layers(backbone)) if answers else USUAL_LAYERS


def _reading(choices: Choices, backbone: Backbone, data: TrainingData) -> dict[str, Any]:
    """Return the record's entries on how the backbone reads the rows."""
    reading = recorded_reading(backbone)
    if choices.verbaliser is not None:
        reading["verbaliser"] = choices.verbaliser
    if choices.format is not None:
        reading["format"] = choices.format
        prompts = formats.prompt_hash(choices.format, backbone.template, data.train[0])
        reading["prompt_sha256"] = prompts
    return reading


def _sizes(
    choices: Choices, data: TrainingData, backbone: Backbone, num_rows: int
) -> TrainingSizes:
    """Return the sizes of the last layer's problem; options share one weight vector."""
    shared = choices.format == "options"
    classes = 1 if shared else len(data.classes)
    return TrainingSizes(classes, backbone.num_features + shared, num_rows)


def _with_defaults(choices: Choices, data: TrainingData, settings: TrainingSettings) -> Choices:
    """Return the choices with the feature scores and the adapter of this fit."""
    scores = settled_scores(choices.feature_scores, choices.posterior)
    held_out = None if data.validation is None else data.validation[0]
    adapter = adapter_for(choices.adapter.with_rate(), choices.posterior)
    return replace(
        choices,
        feature_scores=() if settings.keep_folds or choices.adapter.has_members else scores,
        adapter=read_texts(adapter, data.columns, held_out),
    )


def _by_parts(
    fit: Callable[..., Any], choices: Choices, data: TrainingData, settings: TrainingSettings
) -> tuple[Choices, Sequence[int] | None, dict[str, Any]]:
    """Fit to parts of the rows if held-out rows choose options for the last fit.

    Args:
        fit: `fit_members` without choices and part.
        choices: Choices for the classifier.
        data: Training and validation data.
        settings: Which rows are held out of which fit.

    Returns:
        The choices of the last fit, the epochs after which it stops, and entries for the record.
    """
    if settings.refit and data.validation is not None:
        plain = replace(choices, feature_scores=())
        fitted = fit(plain, part=Part(None, "without-held-out", "fit without held-out rows"))
        held_out = what_was_chosen(fitted, choices.posterior, data.validation)
        posterior = as_chosen(choices.posterior, fitted[2])
        choices = replace(choices, posterior=posterior, logit_scale=held_out.logit_scale)
        return choices, held_out.epochs, {"held_out": dataclasses.asdict(held_out)}
    folds = cross_validate(fit, choices, data.train, settings)
    if folds is None:
        return choices, None, {}
    choices = replace(choices, logit_scale=folds.scale.factor)
    return choices, None, {"logit_scale": dataclasses.asdict(folds.scale)}


def _kept_folds(
    fit: Callable[..., Any], choices: Choices, data: TrainingData, settings: TrainingSettings
) -> tuple[Network, list[dict[str, Tensor]], list[FitResult], dict[str, Any]]:
    """Fit to parts of the rows; return the results of `fit_members`, and entries for the record.

    Raises:
        InputError: No row can be held out.
    """
    folds = cross_validate(fit, choices, data.train, settings)
    if folds is None:
        raise InputError(
            "keep_folds needs rows to hold out, but every text occurs in several rows or is the "
            "only one of its class; leave keep_folds out"
        )
    return *folds.kept(), {"logit_scale": dataclasses.asdict(folds.scale)}


def _read(choices: Choices, data: TrainingData, loaded: Backbone) -> tuple[Backbone, Backbone]:
    """Return the backbone with all its layers and at its depth; see `read_as_asked`."""
    check_images(data.train[0], images=loaded.kind == "vision")
    depth = choices.depth
    pairs = data.train[0].pairs is not None
    whole, backbone = read_as_asked(
        loaded,
        1.0 if depth == "auto" else depth,
        formats.default_template(
            choices, loaded, data.train[0], data.validation and data.validation[0]
        ),
        pairs=pairs,
        adapted=choices.adapter.trains,
        max_length=choices.max_length,
    )
    check_max_length(whole, choices.max_length)
    formats.check_backbone(choices.format, whole, backbone, len(data.classes))
    if depth == "auto":
        depth = best_depth(
            whole,
            data.train,
            pooling=pooling_of(whole, choices.adapter),
            max_length=choices.max_length,
            usual=usual_depth(whole, adapted=choices.adapter.trains),
            progress=choices.progress,
        )
        backbone = cut(whole, depth)
    return whole, backbone


def _planned(choices: Choices, data: TrainingData, settings: TrainingSettings) -> dict[str, Any]:
    """Return the part of the record that is known before the fit."""
    return {
        "backbone": {"name": choices.backbone, "dtype": choices.dtype},
        "adapter": choices.adapter.recorded(),
        "posterior": options.as_mapping(choices.posterior),
        "classes": list(data.classes),
        "columns": data.columns.recorded(),
        "max_length": choices.max_length,
        "seed": choices.seed,
        "num_train": len(data.train[0]),
        "training": dataclasses.asdict(settings),
    }
