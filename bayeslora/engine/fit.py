"""The whole of a fit: from data as a person passes it to a fitted classifier, saved or not."""

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
from bayeslora.adapters.base import USUAL_LAYERS, Adapter, layers_that_answer
from bayeslora.adapters.registry import provider as adapter_provider
from bayeslora.backbones.depth import cut, num_layers, read_as_asked, recorded_reading, usual_depth
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.tokens import check_max_length
from bayeslora.backbones.verbaliser import class_words
from bayeslora.checkpoint import ADAPTED, ModelRecord, library_versions
from bayeslora.engine import formats
from bayeslora.engine.adapter_start import read_texts
from bayeslora.engine.build import adapter_for, best_depth, pooling_of
from bayeslora.engine.checkpoints import abandon, claim, refuse, restored
from bayeslora.engine.class_prior import class_prior
from bayeslora.engine.cross_validation import (
    as_chosen,
    cross_validate,
    held_out_parts,
    split_off,
    what_was_chosen,
)
from bayeslora.engine.data import check_hold_out, check_images
from bayeslora.engine.ensemble import Part, fit_members
from bayeslora.engine.final_fit import TrainingSizes, settle_posterior
from bayeslora.engine.layer_sampling import check_sampling
from bayeslora.engine.loop import FitResult
from bayeslora.engine.model import FittedModel
from bayeslora.engine.network import Network
from bayeslora.engine.settings import Choices, TrainingData, TrainingSettings
from bayeslora.engine.trainer import nothing_to_restore
from bayeslora.errors import DivergedError, InputError
from bayeslora.posteriors.base import FitPlan, Posterior
from bayeslora.posteriors.feature_scores.options import (
    MAHALANOBIS,
    check_feature_scores,
    settled_scores,
)
from bayeslora.posteriors.registry import build_head, names_where, provider
from bayeslora.processes import current
from bayeslora.tasks.examples import data_hash

logger = logging.getLogger(__name__)

# With fewer epochs, the higher rates have no time to fall.
_LONG = 10


def _rated(choices: Choices, settings: TrainingSettings) -> Adapter:
    """Return the adapter with its learning rate, which depends on how long it trains."""
    long = settings.epochs >= _LONG and choices.posterior.chooses_epoch
    return choices.adapter.with_rate(long=long)


def _plan(choices: Choices, data: TrainingData, settings: TrainingSettings) -> FitPlan:
    """Return what the posterior may ask about the fit.

    Raises:
        InputError: There are fewer rows than parts of them.
    """
    return FitPlan(
        num_classes=len(data.classes),
        num_rows=len(data.train[0]),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        adapter_trains=choices.adapter.trains,
        is_validated=data.validation is not None,
        cross_validates=bool(settings.cv),
        holds_out=bool(
            held_out_parts(
                data.train[0].strata(data.train[1].numpy()),
                settings.cv,
                settings.seed,
                groups=data.train[0].groups,
            )
        ),
    )


def fit_classifier(
    choices: Choices,
    data: TrainingData,
    settings: TrainingSettings,
    load: Callable[[], Backbone],
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> FittedModel:
    """Fit a classifier; where `out` holds an interrupted fit of the same kind, go on with it.

    Several processes fit it together inside `processes.together`; the first alone touches `out`.

    Args:
        choices: What to fit.
        data: What to fit it to.
        settings: How long and how fast.
        load: Returns the backbone; called after everything that can be checked without it.
        out: Where the model will be saved, and checkpoints are meanwhile; None for nowhere.
        overwrite: Whether what is at `out` may be replaced.

    Raises:
        InputError: An option is not allowed, `max_length` is beyond the backbone's positions, or
            `out` holds something else.
        MissingAssetError: The posterior needs a package that is not installed.
    """
    choices = formats.settled(choices, data.train[0])
    final = data
    dropped = data.dropped()  # before rows are held out, which may be of either split
    undivided: dict[str, str | None] = {}
    if settings.hold_out:
        _check_hold_out(choices, data, settings)
        undivided = {"whole": data_hash(data.train[0])}
        data = split_off(data, settings.hold_out, settings.seed)
        final = final if settings.refit else data
    _check(choices, data, settings)
    choices = _with_defaults(choices, data, settings)
    if data.tasks and choices.verbaliser is None:
        choices = replace(choices, verbaliser="none")  # no name of a class is a word alone
    held = None if data.validation is None else data.validation[0]
    planned = _planned(choices, final, settings)
    # The record keeps what was asked for, so that a later `calibrate` chooses by rows of its own.
    choices = replace(choices, posterior=choices.posterior.settled(_plan(choices, data, settings)))
    identity: dict[str, Any] = {**planned, **final.hashes()}
    if out is not None:
        current().first(partial(refuse, out, identity, overwrite=overwrite))
    whole, backbone = _read(choices, data, load())
    posterior = settle_posterior(
        choices.posterior,
        _sizes(choices, data, backbone, len(final.train[0])),
    )
    adapter = choices.adapter.with_layers(_layers(choices, backbone))
    choices = replace(choices, posterior=posterior, adapter=adapter)
    # `identity` keeps what was asked for.
    settled = {name: getattr(posterior, name) for name in posterior.settled_options}
    planned |= {
        "posterior": planned["posterior"] | settled,
        "adapter": choices.adapter.recorded(),
    }
    reading = _reading(choices, backbone, final)
    identity["weights of the backbone"] = backbone.fingerprint
    identity |= {"depth": None, "template": None, "verbaliser": None} | reading
    prior = class_prior(
        whole,
        data.classes,
        choices.verbaliser,
        data.train[0],
        at_once=posterior.starts_over(
            adapter_trains=choices.adapter.trains and choices.adapter.episodes is None
        ),
        leads=choices.format == "letters",
    )
    fit = partial(
        fit_members,
        data=data,
        settings=settings,
        backbone=backbone,
        begin=lambda: (
            None
            if out is None
            else current().first(partial(claim, out, identity, overwrite=overwrite))
        ),
        prior=prior,
        restore=nothing_to_restore
        if out is None
        else lambda: restored(out, identity, overwrite=overwrite),
    )
    if held is not None and posterior.scales_logits:
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
    if network.conditioning is not None:
        for advice in dict.fromkeys(network.conditioning.advice(one.adapter) for one in results):
            if advice:
                logger.warning("%s", advice)
    planned["backbone"] |= reading | {
        "fingerprint": backbone.fingerprint,
        "settings": backbone.settings,
        "kind": ADAPTED,
    }
    providers = adapter_provider(choices.adapter) | provider(choices.posterior)
    record = ModelRecord(
        **planned,
        head=network.head.extra_config(),
        feature_scores=network.feature_scores.extra_config(),
        num_members=len(members),
        tasks=data.tasks,
        across_tasks=data.across_tasks,
        data=final.hashes() | undivided,
        dropped=dropped,
        results=dataclasses.asdict(results[0]) | learnt,
        versions=library_versions() | providers,
    )
    fitted = FittedModel(record, network, members, choices.progress)
    return fitted if held is None or settings.refit else fitted.measured(held)


def _layers(choices: Choices, backbone: Backbone) -> int:
    """Return how many layers adapt by default: a language model that answers takes more of them."""
    answers = choices.format == "options" and backbone.kind == "decoder"
    return layers_that_answer(num_layers(backbone)) if answers else USUAL_LAYERS


def _reading(choices: Choices, backbone: Backbone, data: TrainingData) -> dict[str, Any]:
    """Return how the backbone reads the rows, as the record holds it."""
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
    """Return the sizes of the last layer's problem: options share one weight vector."""
    shared = choices.format == "options"
    classes = 1 if shared else len(data.classes)
    return TrainingSizes(classes, backbone.num_features + shared, num_rows)


def _with_defaults(choices: Choices, data: TrainingData, settings: TrainingSettings) -> Choices:
    """Return the choices with feature scores and adapter as this fit takes them."""
    scores = settled_scores(choices.feature_scores, choices.posterior)
    held = None if data.validation is None else data.validation[0]
    adapter = adapter_for(_rated(choices, settings), choices.posterior)
    return replace(
        choices,
        feature_scores=() if settings.keep_folds or choices.adapter.has_members else scores,
        adapter=read_texts(adapter, data.columns, held),
    )


def _by_parts(
    fit: Callable[..., Any], choices: Choices, data: TrainingData, settings: TrainingSettings
) -> tuple[Choices, Sequence[int] | None, dict[str, Any]]:
    """Fit to parts of the rows, where the others are to choose something for the last fit.

    Args:
        fit: `fit_members` but for its choices and part.
        choices: What to fit.
        data: What to fit it to.
        settings: Says which rows are held out of which fit.

    Returns:
        The choices of the last fit, the epochs after which it stops, and what is recorded of them.
    """
    if settings.refit and data.validation is not None:
        plain = replace(choices, feature_scores=())
        fitted = fit(plain, part=Part(None, "without-held-out", "fit without them"))
        kept = what_was_chosen(fitted, choices.posterior, data.validation)
        posterior = as_chosen(choices.posterior, fitted[2])
        choices = replace(choices, posterior=posterior, logit_scale=kept.logit_scale)
        return choices, kept.epochs, {"held_out": dataclasses.asdict(kept)}
    folds = cross_validate(fit, choices, data.train, settings)
    if folds is None:
        return choices, None, {}
    choices = replace(choices, logit_scale=folds.scale.factor)
    return choices, None, {"logit_scale": dataclasses.asdict(folds.scale)}


def _kept_folds(
    fit: Callable[..., Any], choices: Choices, data: TrainingData, settings: TrainingSettings
) -> tuple[Network, list[dict[str, Tensor]], list[FitResult], dict[str, Any]]:
    """Return what `fit_members` does of the fits to parts of the rows, and what is recorded.

    Raises:
        InputError: No row can be held out.
    """
    folds = cross_validate(fit, choices, data.train, settings)
    if folds is None:
        raise InputError(
            "keep_folds needs rows to hold out, and every text is in several rows, or alone in its "
            "class; leave it out"
        )
    return *folds.kept(), {"logit_scale": dataclasses.asdict(folds.scale)}


def _read(choices: Choices, data: TrainingData, loaded: Backbone) -> tuple[Backbone, Backbone]:
    """Return the backbone with all its layers and at its depth; see `read_as_asked`."""
    check_images(data.train[0], images=loaded.kind == "vision")
    asked = choices.depth
    pairs = data.train[0].pairs is not None
    whole, backbone = read_as_asked(
        loaded,
        1.0 if asked == "auto" else asked,
        formats.default_template(
            choices, loaded, data.train[0], data.validation and data.validation[0]
        ),
        pairs=pairs,
        adapted=choices.adapter.trains,
        max_length=choices.max_length,
    )
    check_max_length(whole, choices.max_length)
    formats.check_backbone(choices.format, whole, backbone, len(data.classes))
    if asked == "auto":
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


def _check(choices: Choices, data: TrainingData, settings: TrainingSettings) -> None:
    """Raise InputError for what cannot work, before anything is loaded."""
    posterior = choices.posterior
    if current().size > 1:
        _check_shared(choices.adapter, posterior)
    if settings.cv and data.validation is not None:
        raise InputError(
            "cv chooses by parts of the training rows what validation data choose; give one of the "
            "two",
            code="clash",
        )
    plan = _plan(choices, data, settings)
    if settings.quality_retaining is not None and data.train[0].choices is not None:
        raise InputError(
            "quality_retaining holds rows near others of their class, and the options of a "
            "question are no classes; leave it out"
        )
    if settings.keep_folds:
        _check_keep_folds(choices)
    check_feature_scores(choices.feature_scores, posterior)
    if MAHALANOBIS & {*(choices.feature_scores or ())} and not _differ(data):
        raise InputError(
            "Mahalanobis distances need a class with rows that differ, and every class has one "
            "text; leave that feature score out, or give more rows"
        )
    choices.adapter.check_rows(data.train[0])
    if choices.adapter.episodes is not None and (settings.cv or settings.keep_folds):
        raise InputError(
            f"cv and keep_folds fit parts of the rows, and adapter {choices.adapter.name!r} trains "
            "on episodes of them; leave them out, or give validation data",
            code="not-in-episodes",
        )
    if choices.format == "options":
        build_head(posterior, 2, 1, shared=True)  # refused before the backbone is loaded
    check_sampling(choices.adapter, posterior, settings.layer_sampling)
    posterior.check_fit(plan)
    if isinstance(choices.verbaliser, Mapping):
        class_words(data.classes, choices.verbaliser)


def _check_shared(adapter: Adapter, posterior: Posterior) -> None:
    """Raise InputError for a training that several processes cannot share."""
    what, reason = f"posterior {posterior.name!r}", posterior.not_shared
    if adapter.episodes is not None:
        what, reason = f"adapter {adapter.name!r}", "takes its steps on few-shot episodes"
    if adapter.trains and reason:
        raise InputError(
            f"{what} cannot be trained by several processes: it {reason}; start one, without "
            "torchrun or accelerate launch",
            code="not-shared",
        )


def _check_hold_out(choices: Choices, data: TrainingData, settings: TrainingSettings) -> None:
    """Raise InputError if `hold_out` or `refit` cannot be used in this fit.

    Raises:
        InputError: `hold_out` or `refit` cannot be.
    """
    check_hold_out(settings.hold_out, validated=data.validation is not None)
    if settings.cv:
        raise InputError(
            "hold_out and cv both choose by held-out rows; give one of the two", code="clash"
        )
    if settings.refit and choices.posterior.learns_from == "validation":
        raise InputError(
            f"refit leaves posterior {choices.posterior.name!r} no rows to fit it to; leave refit "
            "out, or take cv with posterior 'mle', whose factor is the inverse of a temperature",
            code="clash",
        )


def refuse_training_options(adapter: Adapter, **given: Any) -> None:
    """Raise InputError for an option of training that has no effect beside an adapter.

    Args:
        adapter: Trains on episodes, or not at all.
        given: Options of `BayesianClassifier.fit` by name, at their default where not given.
    """
    defaults = {"batch_size": TrainingSettings.batch_size, "patience": TrainingSettings.patience}
    for name, value in given.items():
        if value != defaults.get(name):
            what = "fits the last layer alone"
            if adapter.trains:
                what = "trains on few-shot episodes, whose number is an option of its own"
            raise InputError(
                f"{name} has no effect with adapter {adapter.name!r}, which {what}; leave it out, "
                "or choose an adapter such as 'polar' or 'lora'",
                code="no-effect",
            )


def _check_keep_folds(choices: Choices) -> None:
    """Raise InputError if networks cannot answer together."""
    posterior = choices.posterior
    if not (posterior.is_point or posterior.scales_logits):
        raise InputError(
            f"keep_folds is not for posterior {posterior.name!r}, but for "
            f"{names_where(lambda one: one.is_point or one.scales_logits)}; leave it out",
            code="clash",
        )
    if not choices.adapter.trains:
        raise InputError(
            "keep_folds has no effect without an adapter; leave it out", code="no-effect"
        )
    if choices.feature_scores:
        raise InputError(
            "feature scores need one set of features, and with keep_folds there are several; leave "
            "one of the two out",
            code="clash",
        )


def _differ(data: TrainingData) -> bool:
    """Return whether a class has training rows with different texts."""
    rows = data.train[0]
    pairs = rows.pairs or [None] * len(rows)
    return len({*zip(rows.texts, pairs, rows.labels, strict=True)}) > len(data.classes)


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
