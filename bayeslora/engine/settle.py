"""What a plan leaves open is decided here, once, after a check that the choices fit together.

`by_rows` needs the rows, and `by_backbone` the loaded backbone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from bayeslora.adapters.base import USUAL_LAYERS, Adapter, layers_that_answer
from bayeslora.backbones import embedded, reading
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.reading import class_words
from bayeslora.backbones.template import RAW, Template
from bayeslora.data.splits import stratified_sample
from bayeslora.engine import build
from bayeslora.engine.cross_validation import divided, held_out_parts, split_off
from bayeslora.engine.data import LabelledExamples, TrainingData, check_images, check_soft
from bayeslora.engine.network import feature_rows, prepare, set_feature_scale
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import require_tracker
from bayeslora.engine.starts import best_prior_scale
from bayeslora.engine.training_options import TrainingSettings, default_epochs
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.plain_text import listed
from bayeslora.posteriors.base import FEW_ROWS, FitFacts, Posterior
from bayeslora.posteriors.feature_scores import check_feature_scores, settled_scores
from bayeslora.posteriors.registry import build_head
from bayeslora.processes import current

logger = logging.getLogger(__name__)


def by_rows(plan: Plan, data: TrainingData) -> tuple[Plan, TrainingData]:
    """Check the choices of a fit against each other and its rows, and decide what the rows decide.

    Args:
        plan: What was chosen.
        data: The rows that a user passed.

    Returns:
        The plan, and the data divided into training and validation rows.

    Raises:
        InputError: An option is not allowed, or has no effect.
    """
    rows = data.rows
    reads_words = plan.verbaliser not in (None, "none") or rows.choices is not None
    usual = (
        embedded.IMAGES if rows.images else embedded.QUESTIONS if reads_words else embedded.TEXTS
    )
    plan = replace(plan, backbone=plan.backbone or usual, training=_training(plan, data))
    plan = build.with_format(plan, rows)
    _check_held_out(plan, data)
    if plan.training.hold_out:
        data = split_off(data, plan.training.hold_out, plan.training.seed)
    check_fit(plan, data)
    adapter = build.adapter_for(plan.adapter.with_rate(), plan.posterior).settled(data)
    # Class names of several tasks are `task: class`, not words.
    no_words = bool(data.tasks) and plan.verbaliser is None
    plan = replace(
        plan,
        feature_scores=()
        if plan.training.keep_folds
        else settled_scores(plan.feature_scores, plan.posterior),
        adapter=adapter,
        verbaliser="none" if no_words else plan.verbaliser,
    )
    return plan, data


def _training(plan: Plan, data: TrainingData) -> TrainingSettings:
    """Return the options of training with those that were left open."""
    posterior, adapter, settings = plan.posterior, plan.adapter, plan.training
    validated = data.validation is not None or bool(settings.hold_out)
    if "cv" not in plan.chosen:
        # Few rows without an adapter choose the prior by cross-validation instead.
        scales = adapter.trains_with_head or (not adapter.trains and len(data.rows) > FEW_ROWS)
        crosses = posterior.scales_logits and not validated and scales
        settings = replace(settings, cv="auto" if crosses else 0)
    if "epochs" not in plan.chosen:
        epochs = partial(default_epochs, posterior, len(data.rows))
        settings = replace(settings, epochs=epochs(validated=validated))
        chooses = settings.cv and posterior.chooses_epoch and adapter.trains_with_head
        if chooses and divided(*data.train, settings):
            number = epochs(validated=False, cross_validated=True)
            settings = replace(settings, epochs=number, choose_epochs=True)
    return settings


def by_backbone(
    plan: Plan, data: TrainingData, num_rows: int, load: Callable[[str], Backbone]
) -> tuple[Plan, Backbone, Backbone]:
    """Load the backbone of a plan and decide what depends on it.

    Args:
        plan: The plan from `by_rows`.
        data: Training and validation data.
        num_rows: Training rows of the last fit.
        load: Returns the backbone of a name.

    Returns:
        The plan, and the backbone with all its layers and at its depth.

    Raises:
        InputError: The backbone cannot be loaded, or cannot read these rows as chosen.
    """
    plan = replace(plan, posterior=plan.posterior.settled(fit_facts(plan, data)))
    name = str(plan.backbone)
    if name == embedded.AUTO:
        loaded = choose_backbone(plan, data, load, lambda each: _read(plan, data, each)[1])
        name = loaded.name
    else:
        loaded = load(name)
    whole, backbone = _read(plan, data, loaded)
    shared = plan.format == "options"  # options share one weight vector
    classes = 1 if shared else len(data.classes)
    # A language model that answers is adapted in more layers.
    answers = shared and backbone.kind == "decoder"
    num_adapted = layers_that_answer(reading.num_layers(backbone)) if answers else USUAL_LAYERS
    plan = replace(
        plan,
        backbone=name,
        depth=backbone.depth or reading.ALL_LAYERS,
        template=backbone.template or Template(RAW),
        posterior=plan.posterior.sized(classes, backbone.num_features + shared, num_rows),
        adapter=plan.adapter.with_layers(num_adapted),
    )
    return plan, whole, backbone


def say_settled(chosen: Plan, settled: Plan, data: TrainingData) -> None:
    """Log what was left open, and what it became, and name classes of a single row."""
    words = [
        f"{name} {getattr(settled.training, name)}"
        for name in settled.training.unset
        if name not in chosen.chosen
    ]
    if chosen.backbone in (None, embedded.AUTO):
        words.insert(0, f"backbone {settled.backbone}")
    if chosen.depth is None and settled.depth != reading.ALL_LAYERS:
        words.append(f"depth {settled.depth}")
    if chosen.template is None and settled.template != Template(RAW):
        words.append(f"template {settled.template and settled.template.frame!r}")
    if words:
        logger.info("by default: %s", ", ".join(words))
    rows = data.rows
    alone = [str(name) for name, count in Counter(rows.labels).items() if count == 1]
    if alone and rows.choices is None:
        logger.warning(
            "%s: only one row in %d of %d classes: %s",
            *(rows.source, len(alone), len(data.classes), listed(alone)),
        )


def _read(plan: Plan, data: TrainingData, loaded: Backbone) -> tuple[Backbone, Backbone]:
    """Return the backbone with all its layers and at its depth; see `read_as_asked`."""
    check_images(data.rows, images=loaded.kind == "vision")
    whole, backbone = reading.read_as_asked(
        loaded,
        plan.depth,
        build.default_template(plan, loaded, data.rows, data.held_out),
        pairs=data.rows.pairs is not None,
        adapted=plan.adapter.trains,
    )
    build.check_format(plan.format, whole, backbone, len(data.classes))
    return whole, backbone


def fit_facts(plan: Plan, data: TrainingData) -> FitFacts:
    """Return the facts about the fit that the posterior may use."""
    return FitFacts(
        num_classes=len(data.classes),
        num_rows=len(data.rows),
        epochs=plan.training.epochs,
        batch_size=plan.training.batch_size,
        adapter_trains=plan.adapter.trains,
        head_trains=plan.adapter.trains_with_head,
        is_validated=data.validation is not None,
        cross_validates=bool(plan.training.cv),
    )


def check_fit(plan: Plan, data: TrainingData) -> None:
    """Raise InputError if the options do not fit together, before anything is loaded."""
    posterior = plan.posterior
    require_tracker(plan.training.report_to)
    if current().size > 1:
        _check_shared(plan.adapter, posterior)
    # Refuses fewer rows or groups than parts.
    held_out_parts(data.rows, data.train[1].numpy(), plan.training.cv, plan.training.seed)
    check_feature_scores(plan.feature_scores, posterior)
    learns = plan.adapter.trains_with_head or not plan.adapter.trains
    check_soft(data.rows, posterior, f"adapter {plan.adapter.name!r}", learns=learns)
    if plan.format == "options":
        build_head(posterior, 2, 1, shared=True)  # refused before the backbone is loaded
    posterior.check_fit(fit_facts(plan, data))
    if isinstance(plan.verbaliser, Mapping):
        class_words(data.classes, plan.verbaliser)


def _check_shared(adapter: Adapter, posterior: Posterior) -> None:
    """Raise InputError if several processes cannot share the training."""
    subject, reason = f"posterior {posterior.name!r}", posterior.not_shared
    if adapter.trains_itself:
        subject, reason = f"adapter {adapter.name!r}", adapter.trains_itself
    if adapter.trains and reason:
        raise InputError(
            f"{subject} cannot be trained by several processes: it {reason}; start a single "
            "process, without torchrun or accelerate launch",
            code="not-shared",
        )


def _check_held_out(plan: Plan, data: TrainingData) -> None:
    """Raise InputError if the options on held-out rows do not fit together."""
    training, posterior = plan.training, plan.posterior
    sources = {"hold_out": training.hold_out, "cv": training.cv, "validation": data.validation}
    used = [name for name, value in sources.items() if value]
    reason = ""
    if len(used) > 1:
        reason = f"{' and '.join(used)} each provide held-out rows; use only one of them"
    elif training.refit and posterior.learns_from == "validation":
        reason = f"refit leaves no rows to fit posterior {posterior.name!r} to; leave refit out"
    elif training.keep_folds and not training.cv:
        reason = "keep_folds keeps the fits of cv, but cv is 0; set cv"
    elif training.keep_folds and not (posterior.is_point or posterior.scales_logits):
        reason = f"keep_folds does not support posterior {posterior.name!r}"
    if reason:
        raise InputError(reason, code="clash", options=("refit", "keep_folds", "hold_out", "cv"))


# More rows would only separate backbones of negligible difference.
_ENOUGH_ROWS, _FOLDS = 640, 5


def choose_backbone(
    plan: Plan,
    data: TrainingData,
    load: Callable[[str], Backbone],
    read: Callable[[Backbone], Backbone],
) -> Backbone:
    """Return the installed backbone with the lowest held-out NLL of a last layer on its features.

    The fifths of at most 640 training rows are held out in turn. Only vision models read images,
    and only decoders score the options of questions.

    Args:
        plan: What was chosen.
        data: Training data.
        load: Returns an embedded backbone by its name.
        read: Returns a loaded backbone at the depth and with the template of the fit.

    Raises:
        MissingAssetError: No such backbone is installed.
    """
    kinds = {"vision"} if data.rows.images else {"decoder", "encoder"}
    if data.rows.choices is not None or plan.verbaliser not in (None, "none"):
        kinds = {"decoder"}
    loaded, read_as = {}, {}
    for name, model in embedded.EMBEDDED_MODELS.items():
        if model.kind not in kinds or embedded.installed_file(name) is None:
            continue
        loaded[name] = load(name)
        read_as[name] = read(loaded[name])
    if not read_as:
        raise MissingAssetError(
            "backbone 'auto' compares installed backbones, but none that reads these rows is "
            "installed (`bayeslora info` shows how), or name a backbone"
        )
    if len(read_as) == 1:
        return loaded[next(iter(read_as))]
    losses = {name: _loss(plan, data, backbone) for name, backbone in read_as.items()}
    best = min(losses, key=losses.__getitem__)
    shown = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    logger.info("backbone: %s; held-out NLL of a last layer without an adapter: %s", best, shown)
    return loaded[best]


def _loss(plan: Plan, data: TrainingData, backbone: Backbone) -> float:
    """Return the held-out NLL of a last layer on a backbone, in nats per row."""
    network = build.build_network(backbone, plan, len(data.classes))
    rows = _sample(data, plan.seed)
    texts = prepare(network.encoder, rows, progress=plan.progress, say=False)
    set_feature_scale(network, texts)
    features = feature_rows(network, texts).double()
    return best_prior_scale(features, len(data.classes), plan.seed, folds=_FOLDS)[1]


def _sample(data: TrainingData, seed: int) -> LabelledExamples:
    """Return the training rows, or a stratified sample of 640 or one per class."""
    examples, labels = data.train
    enough = max(_ENOUGH_ROWS, len(data.classes))
    if len(examples) <= enough:
        return examples, labels
    chosen = stratified_sample(labels.numpy(), enough, seed)
    return examples.take(chosen), labels[chosen]
