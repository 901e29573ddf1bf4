"""`backbone="auto"`: the installed backbone on which a last layer alone predicts best."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bayeslora.backbones.embedded import EMBEDDED_MODELS, INSTALL, installed_file
from bayeslora.backbones.load import Backbone
from bayeslora.data.splits import stratified_sample
from bayeslora.engine.build import build_network
from bayeslora.engine.data import TrainingData
from bayeslora.engine.plan import Plan
from bayeslora.engine.rows import feature_rows, prepare, set_feature_scale
from bayeslora.engine.training.starts import best_prior_scale
from bayeslora.errors import InputError, MissingAssetError

logger = logging.getLogger(__name__)

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
    for name, model in EMBEDDED_MODELS.items():
        if model.kind not in kinds or installed_file(name) is None:
            continue
        try:
            loaded[name] = load(name)
            read_as[name] = read(loaded[name])
        except InputError as error:  # such as more tokens than it has positions
            logger.warning("backbone %s is left out: %s", name, error)
    if not read_as:
        raise MissingAssetError(
            "backbone 'auto' compares installed backbones, but none that reads these rows is "
            f"installed; {INSTALL}, or name a backbone"
        )
    if len(read_as) == 1:
        logger.info("backbone: %s, the only installed one that reads these rows", *read_as)
        return loaded[next(iter(read_as))]
    losses = {name: _loss(plan, data, backbone) for name, backbone in read_as.items()}
    best = min(losses, key=losses.__getitem__)
    shown = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    logger.info("backbone: %s; held-out NLL of a last layer without an adapter: %s", best, shown)
    return loaded[best]


def _loss(plan: Plan, data: TrainingData, backbone: Backbone) -> float:
    """Return the held-out NLL of a last layer on a backbone, in nats per row."""
    examples, labels = data.train
    enough = max(_ENOUGH_ROWS, len(data.classes))
    if len(examples) > enough:
        chosen = stratified_sample(labels.numpy(), enough, plan.seed)
        examples, labels = examples.take(chosen), labels[chosen]
    network = build_network(backbone, plan, len(data.classes))
    texts = prepare(network.encoder, (examples, labels), progress=plan.progress, say=False)
    set_feature_scale(network, texts)
    rows = feature_rows(network, texts).double()
    return best_prior_scale(rows, len(data.classes), plan.seed, folds=_FOLDS)[1]
