"""Classifiers without labels: the last layer is the language model's own answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from bayeslora.adapters.registry import no_adapter
from bayeslora.backbones.embedded import QUESTIONS
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.reading import ALL_LAYERS, class_rows, class_words, read_as_asked
from bayeslora.backbones.template import RAW, Template
from bayeslora.checkpoint import ModelRecord, library_versions
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, class_names
from bayeslora.engine.build import build_network, check_format, default_template, with_format
from bayeslora.engine.data import check_images
from bayeslora.engine.network import Network, prepare, set_feature_scale
from bayeslora.engine.plan import Plan
from bayeslora.engine.starts import ClassPrior
from bayeslora.errors import InputError
from bayeslora.posteriors.registry import own_softmax

# The mean answer to fewer texts depends too much on each of them.
_FEWEST_TEXTS = 8


def zero_shot(
    plan: Plan,
    classes: Sequence[str] | None,
    texts: Examples | None,
    columns: DataColumns,
    load: Callable[[str], Backbone],
) -> Network:
    """Return a classifier whose last layer is the language model's answer, without labels.

    For questions it is the unchanged answer: the length-normalised log-likelihood of each option,
    or the logits of the letters.

    Args:
        plan: Backbone, depth, template, verbaliser; adapter and posterior have no effect.
        classes: C names in index order; None for those of the verbaliser and of labels, and for
            questions.
        texts: N texts, whose mean answer is subtracted and, at a lower depth, whose states are
            used to fit the lens; labels only name classes. None leaves the answer unchanged.
            Questions set the feature scale, and nothing is subtracted.
        columns: Columns that the texts were read from.
        load: Returns the backbone of a name; called after all checks that do not need it.

    Raises:
        InputError: There are fewer than two classes or eight texts, or a lower depth and no texts,
            or images; or see `class_rows`.
    """
    plan = replace(
        plan,
        backbone=plan.backbone or QUESTIONS,
        adapter=no_adapter(),
        posterior=own_softmax(),
        feature_scores=(),
    )
    if texts is not None:
        check_images(texts, images=False)
    if texts is not None and texts.choices is not None:
        return _of_questions(with_format(plan, texts), load, texts, columns)
    if classes is None:
        classes = _named_classes(plan, texts)
    words = class_words(classes, _mapping(plan))
    if len({*words}) < max(2, len(words)):
        raise InputError(f"zero-shot needs two or more classes, each with other words, got {words}")
    if texts is not None and len(texts) < _FEWEST_TEXTS:
        raise InputError(
            f"the mean answer needs at least {_FEWEST_TEXTS} texts, got {len(texts)}; give more, "
            "or none"
        )
    whole, cut = _read(plan, load(str(plan.backbone)), texts)
    prior = ClassPrior(class_rows(whole, words), whole, texts)
    network = build_network(cut, plan, len(classes))
    weight = prior.rows.double().cpu()
    if texts is None:
        # Prior scales refer to the scale of features, which is similar for all texts.
        pairs = words if cut.template is not None and cut.template.takes_pairs else None
        read = network.encoder.prepare(words, pairs)
    else:
        unknown = torch.full((len(texts),), -1)
        read = prepare(network.encoder, (texts, unknown), progress=plan.progress)
    states = network.encoder.features(read)
    network.feature_scale.fill_(network.encoder.root_mean_square(states))
    if texts is not None:
        weight, _, _ = prior.weight(network, read, states)
    mean = float(network.feature_scale) * weight
    network.head.set_mean(mean.to(network.head.mean_weight))
    return _answering(network, plan, cut, classes, columns)


def _of_questions(
    plan: Plan, load: Callable[[str], Backbone], rows: Examples, columns: DataColumns
) -> Network:
    """Return a classifier of questions that answers like the language model."""
    classes = class_names(rows)
    words = class_words(classes, _mapping(plan))
    backbone = load(str(plan.backbone))
    templated = replace(plan, template=default_template(plan, backbone, rows))
    whole, cut = _read(templated, backbone, rows)
    check_format(plan.format, whole, cut, len(classes))
    network = build_network(cut, plan, len(classes))
    unknown = torch.full((len(rows),), -1)
    prepared = prepare(network.encoder, (rows, unknown), progress=plan.progress)
    set_feature_scale(network, prepared)
    if plan.format == "letters":
        weight = float(network.feature_scale) * class_rows(whole, words)
        network.head.set_mean(weight.to(network.head.mean_weight))
    elif not network.head.mean_weight.any():
        raise InputError(f"{whole.name} is an encoder; zero-shot needs a language model")
    return _answering(network, plan, cut, classes, columns)


def _answering(
    network: Network, plan: Plan, cut: Backbone, classes: Sequence[str], columns: DataColumns
) -> Network:
    """Return the classifier for a network whose last layer is the language model's answer."""
    read_as = replace(plan, depth=cut.depth or ALL_LAYERS, template=cut.template or Template(RAW))
    record = ModelRecord(
        **read_as.recorded(cut) | {"training": {}},
        classes=list(classes),
        columns=columns.recorded(),
        num_train=0,
        head=network.head.extra_config(),
        results={"prior_factor": 1.0, "posterior": {"prior_share": 1.0}, "history": []},
        versions=library_versions(),
    )
    return network.finished(record, progress=plan.progress)


def _named_classes(plan: Plan, texts: Examples | None) -> Sequence[str]:
    """Return the classes named by labels and by the verbaliser, in the order of a fit.

    Raises:
        InputError: They name no class, or labels mix strings and integers.
    """
    labels = {label for label in (() if texts is None else texts.labels) if label is not None}
    if texts is not None and len(labels) > 1:
        return class_names(texts)
    # Labels of a single class cannot be complete.
    classes = sorted({*_mapping(plan), *map(str, labels)})
    if not classes:
        raise InputError(
            "zero-shot needs classes: set a verbaliser (--verbaliser CLASS=WORDS) for each class, "
            "or give labels, of which only the names are used"
        )
    return classes


def _mapping(plan: Plan) -> Mapping[str, str]:
    """Return the words by class name; empty without any."""
    return plan.verbaliser if isinstance(plan.verbaliser, Mapping) else {}


def _read(plan: Plan, backbone: Backbone, texts: Examples | None) -> tuple[Backbone, Backbone]:
    """Return the backbone with all its layers and at the requested depth.

    Raises:
        InputError: The depth needs texts and there are none.
    """
    whole, cut = read_as_asked(
        backbone,
        ALL_LAYERS if plan.depth is None else plan.depth,
        plan.template,
        pairs=texts is not None and texts.pairs is not None,
    )
    if cut.depth is not None and texts is None:
        raise InputError(
            f"at depth {cut.depth}, zero-shot needs texts (without labels) to read the language "
            "model's answer; give texts, or leave depth out"
        )
    return whole, cut
