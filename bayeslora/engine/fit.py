"""The complete fit: from checked data to a fitted classifier."""

from __future__ import annotations

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
from bayeslora.data.examples import data_hash
from bayeslora.engine import formats
from bayeslora.engine.build import adapter_for, best_depth, pooling_of
from bayeslora.engine.choose_backbone import choose_backbone
from bayeslora.engine.cross_validation import fit_networks, split_off
from bayeslora.engine.data import TrainingData, check_images
from bayeslora.engine.ensemble import Fitter
from bayeslora.engine.fit_checks import check_division, check_fit, fit_facts
from bayeslora.engine.fitted.refit import measured
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.training.adapter_start import read_texts
from bayeslora.engine.training.base import FitResult
from bayeslora.engine.training.checkpoints import abandon, claim, refuse
from bayeslora.engine.training.starts import ClassPrior, class_prior
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import DivergedError
from bayeslora.posteriors.feature_scores import settled_scores
from bayeslora.posteriors.registry import provider
from bayeslora.processes import current

logger = logging.getLogger(__name__)


def fit_classifier(
    plan: Plan,
    data: TrainingData,
    load: Callable[[str | None], Backbone],
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Network:
    """Fit a classifier, resuming an interrupted fit with the same options in `out`.

    Several processes fit it together inside `processes.together`; only the first accesses `out`.

    Args:
        plan: What was chosen.
        data: Training and validation data.
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
    plan, data = _checked(plan, data)
    final = all_data if plan.training.refit else data
    planned = _planned(plan, final)
    # The record keeps the requested options, so that a later `calibrate` chooses on its own rows.
    plan = replace(plan, posterior=plan.posterior.settled(fit_facts(plan, data)))
    identity: dict[str, Any] = {**planned, **final.hashes()}
    if out is not None:
        current().first(partial(refuse, out, identity, overwrite=overwrite))
    if plan.backbone == AUTO:
        loaded = choose_backbone(plan, data, load, lambda each: _read(plan, data, each)[1])
        plan = replace(plan, backbone=loaded.name)
    else:
        loaded = load(None)
    whole, backbone = _read(plan, data, loaded)
    plan = _settled(plan, data, backbone, len(final.rows))
    read = formats.rows_to_fit(final.rows, plan.format, plan.training.seed)
    reading = formats.recorded_reading(plan, backbone, read)
    # `identity` keeps the requested options.
    identity["weights of the backbone"] = backbone.fingerprint
    identity |= {"depth": None, "template": None, "verbaliser": None} | reading

    def claimed() -> Path | None:
        if out is None:
            return None
        return current().first(partial(claim, out, identity, overwrite=overwrite))

    fitter = Fitter(plan, data, backbone, claimed, _prior(plan, data, whole))
    try:
        (network, members, results), learnt = fit_networks(fitter, final)
    except DivergedError:
        if out is not None and current().is_first:
            abandon(out)
        raise
    _say_advice(network, results)
    mass = formats.letter_mass(plan, network, whole, data.held_out or read)
    record = ModelRecord(
        **planned | _settled_entries(planned, plan, backbone, reading),
        **_fitted_entries(network, all_data, final, plan.training),
        num_members=len(members),
        results=results[0].recorded() | learnt | mass,
    )
    network.finished(record, members, progress=plan.progress)
    rows = None if plan.training.refit else data.held_out
    if rows is not None:
        network.record = replace(record, results=record.results | measured(network, rows))
    return network


def _checked(plan: Plan, data: TrainingData) -> tuple[Plan, TrainingData]:
    """Return the plan with defaults, and the data divided into training and validation rows.

    Raises:
        InputError: An option is not allowed.
    """
    plan = formats.settled(plan, data.rows)
    if plan.training.hold_out:
        check_division(plan, data)
        data = split_off(data, plan.training.hold_out, plan.training.seed)
    check_fit(plan, data)
    scores = settled_scores(plan.feature_scores, plan.posterior)
    adapter = adapter_for(plan.adapter.with_rate(), plan.posterior)
    # Class names of several tasks are `task: class`, not words.
    no_words = bool(data.tasks) and plan.verbaliser is None
    plan = replace(
        plan,
        feature_scores=() if plan.training.keep_folds or plan.adapter.has_members else scores,
        adapter=read_texts(adapter, data.columns, data.held_out),
        verbaliser="none" if no_words else plan.verbaliser,
    )
    return plan, data


def _planned(plan: Plan, data: TrainingData) -> dict[str, Any]:
    """Return the part of the record that is known before the fit, with the requested options."""
    return {
        "backbone": {"name": plan.backbone, "dtype": plan.dtype},
        "adapter": plan.adapter.recorded(),
        "posterior": options.as_mapping(plan.posterior),
        "classes": list(data.classes),
        "columns": data.columns.recorded(),
        "max_length": plan.max_length,
        "seed": plan.seed,
        "num_train": len(data.rows),
        "training": plan.training.recorded(),
    }


def _settled_entries(
    planned: Mapping[str, Any], plan: Plan, backbone: Backbone, reading: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the entries of the record that depend on the backbone, with the options used."""
    posterior = plan.posterior
    settled = {name: getattr(posterior, name) for name in posterior.settled_options}
    loaded = {
        "fingerprint": backbone.fingerprint,
        "settings": backbone.settings,
        "kind": ADAPTED,
    }
    return {
        "backbone": planned["backbone"] | {"name": plan.backbone} | reading | loaded,
        "adapter": plan.adapter.recorded(),
        "posterior": planned["posterior"] | settled,
        "versions": library_versions() | adapter_provider(plan.adapter) | provider(posterior),
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


def _settled(plan: Plan, data: TrainingData, backbone: Backbone, num_rows: int) -> Plan:
    """Return the plan with options that depend on the backbone: covariance and adapted layers.

    Args:
        plan: The requested plan.
        data: Training data.
        backbone: Backbone at its depth.
        num_rows: Training rows of the last fit.
    """
    shared = plan.format == "options"  # options share one weight vector
    classes = 1 if shared else len(data.classes)
    # A language model that answers is adapted in more layers.
    answers = shared and backbone.kind == "decoder"
    num_adapted = layers_that_answer(num_layers(backbone)) if answers else USUAL_LAYERS
    return replace(
        plan,
        posterior=plan.posterior.sized(classes, backbone.num_features + shared, num_rows),
        adapter=plan.adapter.with_layers(num_adapted),
    )


def _prior(plan: Plan, data: TrainingData, whole: Backbone) -> ClassPrior | None:
    """Return the language model's rows for the classes; None for a prior mean of zero."""
    adapter = plan.adapter
    return class_prior(
        whole,
        data.classes,
        plan.verbaliser,
        data.rows,
        at_once=plan.posterior.starts_over(
            adapter_trains=adapter.trains and adapter.episodes is None
        ),
        leads=plan.format == "letters",
    )


def _read(plan: Plan, data: TrainingData, loaded: Backbone) -> tuple[Backbone, Backbone]:
    """Return the backbone with all its layers and at its depth; see `read_as_asked`."""
    check_images(data.rows, images=loaded.kind == "vision")
    depth = plan.depth
    whole, backbone = read_as_asked(
        loaded,
        1.0 if depth == "auto" else depth,
        formats.default_template(plan, loaded, data.rows, data.held_out),
        pairs=data.rows.pairs is not None,
        adapted=plan.adapter.trains,
        max_length=plan.max_length,
    )
    check_max_length(whole, plan.max_length)
    formats.check_backbone(plan.format, whole, backbone, len(data.classes))
    if depth == "auto":
        usual = default_depth(whole, adapted=plan.adapter.trains)
        depth = best_depth(
            whole,
            data.train,
            pooling=pooling_of(whole, plan.adapter),
            max_length=plan.max_length,
            usual=resolve_depth(whole, usual or 1.0),
            progress=plan.progress,
        )
        backbone = cut(whole, depth)
    return whole, backbone
