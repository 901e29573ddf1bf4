"""The depth that a last layer on frozen features finds the most evidence at.

The evidence is the lower bound of a variational last layer whose prior it chooses itself, so that
no labelled row has to be held out. One pass runs the layers below the lowest candidate; each
candidate then runs its own.
"""

from __future__ import annotations

import logging
import math

import torch

from bayeslora.backbones.depth import cut, num_layers
from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.load import Backbone
from bayeslora.layer_list import find_layers
from bayeslora.option_checks import Pooling
from bayeslora.posteriors.build import build
from bayeslora.posteriors.registry import resolve_posterior
from bayeslora.tasks.splits import stratified_sample
from bayeslora.training.choices import LabelledExamples
from bayeslora.training.progress import progress_bar

logger = logging.getLogger(__name__)

SHARES = (0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the layers: the candidates."""
# More rows than that tell depths apart that make no difference.
_ENOUGH_ROWS = 640
# Nats a row above a last layer that says nothing, from which a bound tells of the states.
_TELLING = 0.02


def best_depth(
    whole: Backbone,
    rows: LabelledExamples,
    *,
    pooling: Pooling,
    max_length: int,
    usual: int,
    progress: bool = False,
) -> int:
    """Return the number of layers whose states say most of the classes.

    Where that of no depth is above what labels alone say, as with a few rows, it is the usual one.

    Args:
        whole: With all its layers and its template.
        rows: Training rows and their labels [N]; of more than 640, a stratified draw, of as many
            or one a class.
        pooling: Which state of a text is its feature.
        max_length: Tokens kept of a text.
        usual: The depth where none is asked for.
        progress: Whether to show a bar.
    """
    examples, labels = rows
    enough = max(_ENOUGH_ROWS, int(labels.max()) + 1)
    if len(examples) > enough:
        chosen = stratified_sample(labels.numpy(), enough, 0)
        examples, labels = examples.take(chosen), labels[chosen]
    total = num_layers(whole)
    depths = sorted({max(1, round(share * total)) for share in SHARES})
    found: dict[int, float] = {}
    count = len(examples) * (len(depths) + 1)
    with progress_bar("depth", count, shown=progress, unit="text") as advance:
        path, _ = find_layers(whole.model)
        start = depths[0] - 1
        first = Encoder(whole, layers_path=path, start=start, max_length=max_length)
        prepared = first.prepare(examples.texts, examples.pairs, advance=advance)
        for depth in depths:
            encoder = Encoder(
                cut(whole, depth),
                layers_path=path,
                start=start,
                max_length=max_length,
                pooling=pooling,
            )
            features = encoder.features(prepared, advance=advance)
            found[depth] = evidence(features, labels)
        first.forget(prepared)
    best = max(depths, key=found.__getitem__)
    logger.info("depth: %s", {depth: round(value, 3) for depth, value in found.items()})
    if found[best] < _TELLING - math.log(int(labels.max()) + 1):
        logger.warning(
            "depth 'auto': %d rows are too few to tell the layers apart; %d of them are read, as "
            "by default",
            len(examples),
            usual,
        )
        return usual
    return best


def evidence(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the evidence lower bound in nats a row of a last layer on features [N, d]."""
    scaled = features / features.double().square().sum(-1).mean().sqrt().float()
    posterior = resolve_posterior("vbll:covariance=eigenbasis")
    head = build(posterior, features.shape[1], int(labels.max()) + 1)
    head.fit(scaled, labels, None)
    return float(head.report()["elbo"])
