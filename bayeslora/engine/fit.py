"""The complete fit: from checked data to a fitted classifier."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bayeslora import options
from bayeslora.adapters.base import USUAL_LAYERS, layers_that_answer
from bayeslora.adapters.registry import provider as adapter_provider
from bayeslora.backbones.depth import cut, default_depth, num_layers, read_as_asked, resolve_depth
from bayeslora.backbones.embedded import AUTO
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.tokens import check_max_length
from bayeslora.checkpoint import ADAPTED, ModelRecord, library_versions
from bayeslora.engine import formats
from bayeslora.engine.build import adapter_for, best_depth, pooling_of
from bayeslora.engine.choose_backbone import choose_backbone
from bayeslora.engine.cross_validation import (
    cross_validate,
    split_off,
    what_was_chosen,
)
from bayeslora.engine.data import check_images
from bayeslora.engine.ensemble import Fitted, Part, fit_members
from bayeslora.engine.fit_checks import check_division, check_fit, fit_plan
from bayeslora.engine.fitted.model import FittedModel
from bayeslora.engine.network import Network
from bayeslora.engine.settings import Choices, TrainingData
from bayeslora.engine.training.adapter_start import read_texts
from bayeslora.engine.training.checkpoints import abandon, claim, refuse
from bayeslora.engine.training.loop import FitResult
from bayeslora.engine.training.starts import ClassPrior, LinearProbes, class_prior
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import DivergedError, InputError
from bayeslora.posteriors.feature_scores import settled_scores
from bayeslora.posteriors.registry import provider
from bayeslora.processes import current
from bayeslora.tasks.examples import data_hash

logger = logging.getLogger(__name__)


def fit_classifier(
    choices: Choices,
    data: TrainingData,
    settings: TrainingSettings,
    load: Callable[[str | None], Backbone],
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
        load: Returns the backbone of a name, or the chosen one for None; called after all checks
            that do not need it.
        out: Directory for the model, and for checkpoints until it is saved; None for none.
        overwrite: Whether the content of `out` may be replaced.

    Raises:
        InputError: An option is not allowed, `max_length` exceeds the backbone's positions, or
            `out` holds something else.
        MissingAssetError: The posterior needs a package that is not installed.
    """
    all_data = data
    choices, data = _checked(choices, data, settings)
    final = all_data if settings.refit else data
    planned = _planned(choices, final, settings)
    # The record keeps the requested options, so that a later `calibrate` chooses on its own rows.
    choices = replace(
        choices, posterior=choices.posterior.settled(fit_plan(choices, data, settings))
    )
    identity: dict[str, Any] = {**planned, **final.hashes()}
    if out is not None:
        current().first(partial(refuse, out, identity, overwrite=overwrite))
    if choices.backbone == AUTO:
        loaded = choose_backbone(choices, data, load, lambda each: _read(choices, data, each)[1])
        choices = replace(choices, backbone=loaded.name)
    else:
        loaded = load(None)
    whole, backbone = _read(choices, data, loaded)
    choices = _settled(choices, data, backbone, len(final.rows))
    read = formats.rows_to_fit(final.rows, choices.format, settings.seed)
    reading = formats.recorded_reading(choices, backbone, read)
    # `identity` keeps the requested options.
    identity["weights of the backbone"] = backbone.fingerprint
    identity |= {"depth": None, "template": None, "verbaliser": None} | reading

    def claimed() -> Path | None:
        if out is None:
            return None
        return current().first(partial(claim, out, identity, overwrite=overwrite))

    fit = partial(
        fit_members,
        data=data,
        settings=settings,
        backbone=backbone,
        claim=claimed,
        prior=_prior(choices, data, whole),
    )
    try:
        (network, members, results), learnt = _fitted(fit, choices, data, final, settings)
    except DivergedError:
        if out is not None and current().is_first:
            abandon(out)
        raise
    _say_advice(network, results)
    mass = formats.letter_mass(choices, network, whole, data.held_out or read)
    record = ModelRecord(
        **planned | _settled_entries(planned, choices, backbone, reading),
        **_fitted_entries(network, all_data, final, settings),
        num_members=len(members),
        results=_entries(results[0]) | learnt | mass,
    )
    fitted = FittedModel(record, network, members, choices.progress)
    rows = None if settings.refit else data.held_out
    return fitted if rows is None else fitted.measured(rows)


def _entries(result: FitResult) -> dict[str, Any]:
    """Return a result as entries of the record."""
    entries = dataclasses.asdict(replace(result, stages=[]))
    del entries["stages"]
    return entries


def _checked(
    choices: Choices, data: TrainingData, settings: TrainingSettings
) -> tuple[Choices, TrainingData]:
    """Return the choices with defaults, and the data divided into training and validation rows.

    Raises:
        InputError: An option is not allowed.
    """
    choices = formats.settled(choices, data.rows)
    if settings.hold_out:
        check_division(choices, data, settings)
        data = split_off(data, settings.hold_out, settings.seed)
    check_fit(choices, data, settings)
    scores = settled_scores(choices.feature_scores, choices.posterior)
    adapter = adapter_for(choices.adapter.with_rate(), choices.posterior)
    # Class names of several tasks are `task: class`, not words.
    no_words = bool(data.tasks) and choices.verbaliser is None
    choices = replace(
        choices,
        feature_scores=() if settings.keep_folds or choices.adapter.has_members else scores,
        adapter=read_texts(adapter, data.columns, data.held_out),
        verbaliser="none" if no_words else choices.verbaliser,
    )
    return choices, data


def _planned(choices: Choices, data: TrainingData, settings: TrainingSettings) -> dict[str, Any]:
    """Return the part of the record that is known before the fit, with the requested options."""
    return {
        "backbone": {"name": choices.backbone, "dtype": choices.dtype},
        "adapter": choices.adapter.recorded(),
        "posterior": options.as_mapping(choices.posterior),
        "classes": list(data.classes),
        "columns": data.columns.recorded(),
        "max_length": choices.max_length,
        "seed": choices.seed,
        "num_train": len(data.rows),
        "training": settings.recorded(),
    }


def _settled_entries(
    planned: Mapping[str, Any], choices: Choices, backbone: Backbone, reading: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the entries of the record that depend on the backbone, with the options used."""
    posterior = choices.posterior
    settled = {name: getattr(posterior, name) for name in posterior.settled_options}
    loaded = {
        "fingerprint": backbone.fingerprint,
        "settings": backbone.settings,
        "kind": ADAPTED,
    }
    return {
        "backbone": planned["backbone"] | {"name": choices.backbone} | reading | loaded,
        "adapter": choices.adapter.recorded(),
        "posterior": planned["posterior"] | settled,
        "versions": library_versions() | adapter_provider(choices.adapter) | provider(posterior),
    }


def _fitted_entries(
    network: Network, all_data: TrainingData, final: TrainingData, settings: TrainingSettings
) -> dict[str, Any]:
    """Return the entries of the record on the last layer, and on the rows before their division."""
    hashes = final.hashes()
    if settings.hold_out:
        hashes["whole"] = data_hash(all_data.rows)
    return {
        "head": network.head.extra_config(),
        "feature_scores": network.feature_scores.extra_config(),
        "tasks": final.tasks,
        "across_tasks": final.across_tasks,
        "data": hashes,
        "dropped": all_data.dropped(),
    }


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
    shared = choices.format == "options"  # options share one weight vector
    classes = 1 if shared else len(data.classes)
    # A language model that answers is adapted in more layers.
    answers = shared and backbone.kind == "decoder"
    num_adapted = layers_that_answer(num_layers(backbone)) if answers else USUAL_LAYERS
    return replace(
        choices,
        posterior=choices.posterior.sized(classes, backbone.num_features + shared, num_rows),
        adapter=choices.adapter.with_layers(num_adapted),
    )


def _prior(choices: Choices, data: TrainingData, whole: Backbone) -> ClassPrior | None:
    """Return the language model's rows for the classes; None for a prior mean of zero."""
    adapter = choices.adapter
    return class_prior(
        whole,
        data.classes,
        choices.verbaliser,
        data.rows,
        at_once=choices.posterior.starts_over(
            adapter_trains=adapter.trains and adapter.episodes is None
        ),
        leads=choices.format == "letters",
    )


def _fitted(
    fit: Callable[..., Fitted],
    choices: Choices,
    data: TrainingData,
    final: TrainingData,
    settings: TrainingSettings,
) -> tuple[Fitted, dict[str, Any]]:
    """Fit to all rows, after fits to parts of them if held-out rows choose options.

    Args:
        fit: `fit_members` without choices and part.
        choices: Choices for the classifier.
        data: Training and validation data.
        final: Data of the last fit.
        settings: Which rows are held out of which fit.

    Returns:
        The fitted networks, and entries for the record.

    Raises:
        InputError: The folds are to be kept, but no row can be held out.
    """
    if data.validation is not None and choices.posterior.scales_logits:
        choices = replace(choices, logit_scale=None)
    if settings.refit and data.validation is not None:
        plain = replace(choices, feature_scores=())
        partly = fit(plain, part=Part(None, "without-held-out", "fit without held-out rows"))
        chosen = what_was_chosen(partly, choices.posterior, data.validation)
        posterior = choices.posterior.as_chosen(partly[2][0].posterior)
        choices = replace(choices, posterior=posterior, logit_scale=chosen.logit_scale)
        whole = fit(choices, data=final, stops=chosen.epochs, say=False)
        return whole, {"held_out": dataclasses.asdict(chosen)}
    probes = LinearProbes()
    fit = partial(fit, probes=probes)
    folds = cross_validate(fit, choices, data.train, settings, probes)
    if folds is None and settings.keep_folds:
        raise InputError(
            "keep_folds needs rows to hold out, but every text occurs in several rows or is the "
            "only one of its class; leave keep_folds out"
        )
    if folds is None:
        if settings.cv not in (0, "auto"):
            logger.warning(
                "cv=%s has no effect: every text occurs in several rows or is the only one of its "
                "class, so no row can be held out",
                settings.cv,
            )
        return fit(choices, data=final), {}
    learnt: dict[str, Any] = {"logit_scale": dataclasses.asdict(folds.scale)}
    if folds.epochs:
        learnt["epochs"] = dict(folds.epochs)
        shown = ", ".join(f"{number}: {loss:.3f}" for number, loss in folds.epochs.items())
        logger.info("held-out NLL by epochs: %s", shown)
    if folds.baselines:
        learnt["baselines"] = dict(folds.baselines)
    if settings.keep_folds:
        return folds.kept(), learnt
    scaled = replace(choices, logit_scale=folds.scale.factor)
    whole = fit(scaled, data=final, say=False, further=folds.further)
    if folds.num_averaged:
        learnt["averaged"] = folds.num_averaged
    return whole, learnt


def _read(choices: Choices, data: TrainingData, loaded: Backbone) -> tuple[Backbone, Backbone]:
    """Return the backbone with all its layers and at its depth; see `read_as_asked`."""
    check_images(data.rows, images=loaded.kind == "vision")
    depth = choices.depth
    whole, backbone = read_as_asked(
        loaded,
        1.0 if depth == "auto" else depth,
        formats.default_template(choices, loaded, data.rows, data.held_out),
        pairs=data.rows.pairs is not None,
        adapted=choices.adapter.trains,
        max_length=choices.max_length,
    )
    check_max_length(whole, choices.max_length)
    formats.check_backbone(choices.format, whole, backbone, len(data.classes))
    if depth == "auto":
        usual = default_depth(whole, adapted=choices.adapter.trains)
        depth = best_depth(
            whole,
            data.train,
            pooling=pooling_of(whole, choices.adapter),
            max_length=choices.max_length,
            usual=resolve_depth(whole, usual or 1.0),
            progress=choices.progress,
        )
        backbone = cut(whole, depth)
    return whole, backbone
