"""New classes for a finished network: refit the last layer and merge the pool again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from bayeslora import options
from bayeslora.adapters.base import Adapter
from bayeslora.backbones.encoder import Encoder
from bayeslora.checkpoint import ADAPTED
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, class_names, encode_labels
from bayeslora.engine.build import check_last_layer
from bayeslora.engine.data import check_images, columns_of
from bayeslora.engine.fitted.card import method_name
from bayeslora.engine.fitted.refit import refitted_record
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import quiet_transformers
from bayeslora.engine.rows import prepare
from bayeslora.engine.training.base import Training
from bayeslora.engine.training.final_fit import fit_frozen
from bayeslora.errors import InputError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.feature_scores import settled_scores
from bayeslora.posteriors.registry import build_head, provider


def for_new_classes(
    fitted: Network,
    posterior: Posterior,
    rows: Examples,
    *,
    adapter: Adapter | None,
    columns: DataColumns,
) -> Network:
    """Return a classifier of the classes of some rows; `fitted` is unchanged.

    Args:
        fitted: Classifier whose network computes the features.
        posterior: Posterior of the last layer.
        rows: Labelled rows of the new classes.
        adapter: Options of a pool's merge; None for those of the fit.
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
    merged = _merge_of(fitted, adapter)
    classes = class_names(rows)
    labels = torch.from_numpy(encode_labels(rows, classes))
    network = _with_head(fitted, posterior, len(classes))
    with quiet_transformers():
        support = prepare(network.encoder, (rows, labels), progress=fitted.progress)
    variants: Sequence[Callable[[], None]] = [lambda: None]
    if merged is not None and merged.trains_itself:
        variants = merged.variants(network, support)
    scores = settled_scores(None, posterior) if len(variants) == 1 and _differ(labels) else ()
    plan = Plan(posterior=posterior, feature_scores=scores, seed=record.seed, progress=False)
    fit = Training(network, plan, support)
    members, fits = [], []
    for put in variants:
        put()
        fits.append(fit_frozen(fit))
        members.append(network.trained_state())
    network.load_trained_state(members[0])
    results = {"posterior": fits[0].posterior, "history": []}
    new_record = replace(
        refitted_record(record, network, rows, None, columns=columns, results=results),
        adapter=record.adapter if merged is None else merged.recorded(),
        posterior=options.as_mapping(posterior),
        classes=list(classes),
        tasks={},
        num_members=len(members),
        versions=record.versions | provider(posterior),
    )
    return network.finished(new_record, members, progress=fitted.progress)


def _merge_of(fitted: Network, adapter: Adapter | None) -> Adapter | None:
    """Return the adapter options of the fit, with the requested merge, if any.

    Raises:
        InputError: The options differ from those of the fit in more than the merge.
    """
    known = None if fitted.record.adapter is None else fitted.plan.adapter
    if adapter is None:
        return known
    if known is None or type(adapter) is not type(known):
        raise InputError(
            f"{method_name(fitted.record)} has no pool of adapters to merge; leave adapter out"
        )
    return known.for_new_classes(adapter)


def _differ(labels: torch.Tensor) -> bool:
    """Return whether a class has several rows, as distances between rows need."""
    return bool((torch.bincount(labels) > 1).any())


def _with_head(fitted: Network, posterior: Posterior, num_classes: int) -> Network:
    """Return a copy of the network that shares its parameters and caches, with an unfitted head."""
    encoder = fitted.encoder
    shared = [*fitted.parameters(), *fitted.members, encoder.backbone.tokenizer]
    shared += [encoder.backbone.prefix_states, encoder.backbone.known]
    network = copy.deepcopy(fitted, {id(item): item for item in shared})
    size, seed = network.encoder.num_features, fitted.record.seed
    head = build_head(posterior, size, num_classes, seed=seed)
    network = Network(network.encoder, network.sites, head)
    return network.to(fitted.feature_scale.device).eval()
