"""Initialisation of adapters that depends on texts.

Second moments of the layers' inputs are computed once and cached on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bayeslora.adapters.site import Companion, Site
from bayeslora.adapters.stats import SecondMoment, second_moments
from bayeslora.backbones.encoder import FeatureExtractor, PreparedTexts
from bayeslora.engine.network import Network, unscaled
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training.base import Training
from bayeslora.io.cache import SECOND_MOMENTS, keep_tensors, kept_file, read_kept
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import build_head, build_weights, closed_form

logger = logging.getLogger(__name__)

_MOMENTS_BATCH = 32
_MOMENTS_FORMAT = 2  # of the cached file
_GRADIENT_BATCH = 16


def begin_adapter(fit: Training, trained: Mapping[str, Tensor] | None = None) -> None:
    """Initialise the adapters of a fresh network if their start depends on texts.

    Most adapters are initialised already. A resumed training runs no texts again.

    The posterior over weights is built again if the sites' parameters change shape.

    Args:
        fit: A training whose network's sites change nothing yet.
        trained: Tensors of a training to resume; None starts anew.

    Raises:
        InputError: As `Adapter.begin`.
    """
    network, plan = fit.network, fit.plan
    if not plan.adapter.starts_from_rows:
        return
    shapes = _shapes(network)
    if trained is None:
        rows = _Rows(network, fit.train, plan.progress)
        plan.adapter.begin(rows)
    else:
        network.expect(trained)
    if _shapes(network) == shapes:
        return
    weights = build_weights(plan.posterior, network, plan.seed)
    if weights is not None:
        network.weights = weights.to(network.feature_scale.device)


def _shapes(network: Network) -> list[torch.Size]:
    return [value.shape for site in network.sites for value in site.trainable().values()]


@dataclass(frozen=True)
class _Rows:
    """The training rows as `bayeslora.adapters.base.TrainingRows`."""

    network: Network
    train: PreparedTexts
    shown: bool

    @property
    def sites(self) -> Sequence[Site]:
        return self.network.sites

    @property
    def model(self) -> nn.Module:
        return self.network.encoder.model

    @property
    def companion(self) -> Companion | None:
        return self.network.companion

    def columns(self) -> Mapping[str, Tensor]:
        """Return the columns of the training rows."""
        return self.train.columns

    def moments(self, count: int, texts: Sequence[str] | None = None) -> Mapping[str, SecondMoment]:
        """Return the second moments of the network's inputs; its adapters change nothing yet.

        Cached states of the layers below the first adapted one are reused.
        """
        prepared = self.train
        if texts is not None:
            chosen = [texts[row] for row in spread(len(texts), count)]
            with progress_bar(
                "frozen layers", len(chosen), shown=self.shown, unit="text"
            ) as advance:
                prepared = self.network.encoder.prepare(chosen, advance=advance)
        return moments_on(self.network, prepared, count, shown=self.shown)

    def backward(self, count: int) -> None:
        """Backpropagate through a fitted last layer: the network's own is zero."""
        network, train = self.network, self.train
        rows = spread(len(train), count)
        batches = _batches(network.encoder, train, rows, _GRADIENT_BATCH)
        network.eval()
        with torch.no_grad():
            features = torch.cat([network.encoder(train.collate(batch)) for batch in batches])
        states = unscaled(network.encoder, features)
        scale = states.values.double().square().sum(-1).mean().sqrt().float()
        labels = train.labels[[row for batch in batches for row in batch]].to(features.device)
        scaled = Features(states.values / scale, labels, states.known)
        weight = _last_layer(scaled, len(network.head.mean_weight)) / scale
        with progress_bar("gradients", len(rows), shown=self.shown, unit="text") as advance:
            for batch in batches:
                batch_states = unscaled(network.encoder, network.encoder(train.collate(batch)))
                logits = batch_states.logits(weight)
                truth = train.labels[batch].to(logits.device)
                loss = cross_entropy(logits, truth, reduction="sum") / len(rows)
                torch.autograd.backward(loss)
                advance(len(batch))


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` of `length` row numbers, evenly spaced."""
    size = min(length, count)
    rows: list[int] = np.linspace(0, length - 1, size).round().astype(int).tolist()
    return rows


def moments_on(
    network: Network, texts: PreparedTexts, count: int, *, shown: bool = False
) -> dict[str, SecondMoment]:
    """Return the second moments of the sites' inputs on texts, from the disk cache if possible.

    Args:
        network: Network whose sites change nothing yet.
        texts: Prepared texts.
        count: Largest number of texts to run.
        shown: Whether to show a progress bar on stderr.

    Raises:
        InputError: As `second_moments`.
    """
    rows = spread(len(texts), count)
    path = kept_file(SECOND_MOMENTS, _key(network, texts, rows))
    tensors = read_kept(path)
    if tensors is not None:
        return {
            site.name: SecondMoment(tensors[site.name], int(tensors[f"{site.name}.count"]))
            for site in network.sites
        }
    network.eval()
    with progress_bar("context", len(rows), shown=shown, unit="text") as advance:
        moments = second_moments(
            network.encoder,
            {site.name: site for site in network.sites},
            map(texts.collate, _batches(network.encoder, texts, rows, _MOMENTS_BATCH)),
            advance,
        )
    matrices = {name: moment.matrix for name, moment in moments.items()}
    counts = {f"{name}.count": torch.tensor(moment.count) for name, moment in moments.items()}
    keep_tensors(path, matrices | counts)
    return moments


def _batches(
    encoder: FeatureExtractor, texts: PreparedTexts, rows: list[int], size: int
) -> list[list[int]]:
    """Return the row numbers of batches of similar length."""
    lengths = texts.tokens.lengths[rows]
    return [[rows[index] for index in indices] for indices in encoder.batches(lengths, size)]


def _key(network: Network, texts: PreparedTexts, rows: list[int]) -> str:
    """Return a hash of everything that determines the second moments."""
    backbone = network.encoder.backbone
    names = [site.name for site in network.sites]
    weights = [backbone.fingerprint, backbone.dtype, str(network.sites[0].weight.dtype)]
    identity = [*weights, backbone.settings, names, _MOMENTS_FORMAT]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for column in (texts.tokens.ids, texts.tokens.types or ()):
        for item in (column[row] for row in rows if column):
            digest.update(len(item).to_bytes(8, "little") + item.tobytes())
    return digest.hexdigest()[:32]


def _last_layer(rows: Features, num_classes: int) -> Tensor:
    """Return weights [C, d] of a last layer fitted to features of mean square norm 1."""
    values = rows.values
    head: Any = build_head(closed_form(), values.shape[-1], num_classes, shared=values.ndim == 3)
    head.to(values.device).refit(rows)
    weight: Tensor = head.mean_weight
    return weight
