"""The fit of a classifier on a page: settle, load, folds, train, average, posterior, record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bayeslora.adapters.registry import provider as adapter_provider
from bayeslora.backbones.load import Backbone
from bayeslora.checkpoint import ModelRecord, library_versions
from bayeslora.data.examples import TASK, Examples, data_hash, dropped_by_split
from bayeslora.engine import settle
from bayeslora.engine.card import method_name
from bayeslora.engine.cross_validation import Fitter, bag_of_words, baseline_losses, fit_networks
from bayeslora.engine.data import TrainingData
from bayeslora.engine.network import Network
from bayeslora.engine.pieces import model_notes, predict_rows
from bayeslora.engine.plan import Plan
from bayeslora.engine.starts import class_prior
from bayeslora.engine.training import abandon, claim, refuse
from bayeslora.errors import DivergedError
from bayeslora.logits import GaussianLogits
from bayeslora.metrics.rowwise import row_scores
from bayeslora.posteriors.registry import provider
from bayeslora.processes import current

logger = logging.getLogger(__name__)


def fit_classifier(
    plan: Plan,
    data: TrainingData,
    load: Callable[[str], Backbone],
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Network:
    """Fit a classifier, resuming an interrupted fit with the same options in `out`.

    Several processes fit it together inside `processes.together`; only the first accesses `out`.

    Args:
        plan: What was chosen.
        data: The rows that a user passed.
        load: Returns the backbone of a name; called after all checks that do not need it.
        out: Directory for the model, and for checkpoints until it is saved; None for none.
        overwrite: Whether the content of `out` may be replaced.

    Raises:
        InputError: An option is not allowed, `max_length` exceeds the backbone's positions, or
            `out` holds something else.
        MissingAssetError: The posterior needs a package that is not installed.
        DivergedError: The training diverged; its checkpoints are deleted.
    """
    # Check the choices, and decide what the rows and the backbone decide.
    passed = data
    requested, data = settle.by_rows(plan, data)
    final = passed if requested.training.refit else data
    # What an interrupted fit in `out` must have in common with this one.
    identity: dict[str, Any] = requested.recorded() | _of_rows(final) | final.hashes()
    if out is not None:
        current().first(partial(refuse, out, identity, overwrite=overwrite))
    settled, full_backbone, backbone = settle.by_backbone(requested, data, len(final.rows), load)
    settle.say_settled(plan, settled, data)
    plan = settled
    # The posterior as requested, so that a later `calibrate` chooses on its own rows.
    planned = replace(plan, posterior=requested.posterior).recorded(backbone)
    for name in plan.posterior.settled_options:
        planned["posterior"][name] = getattr(plan.posterior, name)
    identity["weights of the backbone"] = backbone.fingerprint
    identity["reading"] = planned["backbone"]

    # Train: to parts of the rows, whose other rows choose what is open, then to all.
    leads = plan.format == "letters"
    at_once = plan.posterior.starts_over(adapter_trains=plan.adapter.trains_with_head)
    prior = class_prior(
        full_backbone, data.classes, plan.verbaliser, data.rows, at_once=at_once, leads=leads
    )

    def claimed() -> Path | None:
        if out is None:
            return None
        return current().first(partial(claim, out, identity, overwrite=overwrite))

    fitter = Fitter(plan, data, backbone, claimed, prior)
    try:
        (network, members, results), learnt = fit_networks(fitter, final)
    except DivergedError:
        if out is not None and current().is_first:
            abandon(out)
        raise
    for advice in dict.fromkeys(plan.adapter.advice(result.adapter) for result in results):
        if advice:
            logger.warning("%s", advice)

    # Record what was planned and what came out.
    record = ModelRecord(
        **planned,
        **_of_rows(final),
        data=final.hashes() | ({"whole": data_hash(passed.rows)} if plan.training.hold_out else {}),
        dropped=dropped_by_split(train=passed.rows, validation=passed.held_out),
        head=network.head.extra_config(),
        feature_scores=network.feature_scores.extra_config(),
        num_members=len(members),
        results=results[0].recorded() | learnt,
        versions=library_versions() | adapter_provider(plan.adapter) | provider(plan.posterior),
    )
    network.finished(record, members, progress=plan.progress)
    if fitter.held_out is not None:
        notes = {**fitter.held_out.metadata, **model_notes(network)}
        network.held_out = fitter.held_out.replace(name=method_name(record), metadata=notes)
    if data.validation is not None:
        refit = plan.training.refit
        scores = {} if refit else _measured(network, data.validation[0])
        own = record.results["held_out"]["nll"] if refit else scores["validation_nll"]
        if (words := bag_of_words(data.train, data.validation[0])) is not None:
            answers = {"bag_of_words": [(GaussianLogits.point(words), data.validation[1])]}
            scores["baselines"] = baseline_losses(answers, own)
        network.record = replace(record, results=record.results | scores)
    return network


def _of_rows(data: TrainingData) -> dict[str, Any]:
    """Return the entries of a record on the rows."""
    return {
        "classes": list(data.classes),
        "columns": data.columns.recorded(),
        "num_train": len(data.rows),
        "tasks": data.tasks,
    }


def _measured(network: Network, rows: Examples) -> dict[str, Any]:
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
