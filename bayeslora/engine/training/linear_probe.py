"""Linear probes: last layers on frozen features, where training starts and what a fit has to beat.

    W(τ) = argmin_W  Σ_n −log softmax(W φ_n)_{y_n} + ‖W − M‖² mean ‖φ‖² / (2τ²)

From zero, gradient steps that are short enough not to be noise do not reach the weights that
separate dozens of classes, and meanwhile the adapter follows a head that knows nothing. So training
starts at W(τ) for the largest τ at which two conditions hold: τ is at most the one of `SCALES` with
the lowest NLL on held-out rows, and the training rows keep half of the entropy of their labels. A
head that already explains all of them would leave the adapter nothing to learn.

Source: linear probing before fine-tuning, Kumar et al. 2022, arXiv 2202.10054.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.data.splits import stratified_folds
from bayeslora.engine.network import Network
from bayeslora.engine.rows import LabelledTexts
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.point import PointHead
from bayeslora.processes import current

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_FOLDS = 5
_MOST_ROWS = 2048
_STEPS = 50
_KEPT_ENTROPY = 0.5
_BISECTIONS = 3


@dataclass(frozen=True)
class LinearProbe:
    """Last layers on frozen features.

    Attributes:
        prior_scale: τ with the lowest NLL on held-out rows.
        weight: [C, d] float64, W of this τ.
        start: [C, d] float64, weights to start training from.
    """

    prior_scale: float
    weight: Tensor
    start: Tensor

    @classmethod
    def fitted(
        cls, rows: Features, num_classes: int, seed: int, prior_mean: Tensor | None = None
    ) -> LinearProbe:
        """Fit the last layers.

        Args:
            rows: N labelled rows with features [N, d].
            num_classes: C.
            seed: Seed of the division into five folds, of which the first is held out.
            prior_mean: [C, d] M; None for zero.
        """
        rows = rows.double()
        best, _ = best_prior_scale(rows, num_classes, seed, prior_mean)
        shares = torch.bincount(rows.targets).double() / len(rows)
        floor = -_KEPT_ENTROPY * float(torch.special.xlogy(shares, shares).sum())
        head = _head(rows, num_classes, prior_mean)
        weight = start = head.mean_weight.clone()
        low, high = SCALES[0] / 2, math.inf
        for scale in SCALES[: SCALES.index(best) + 1]:
            weight = _solved(head, rows, scale)
            if _nll(rows, weight) < floor:
                high = min(high, scale)
            elif high == math.inf:
                low, start = scale, weight
        for _ in range(_BISECTIONS if high < math.inf else 0):
            head.set_mean(start)
            scale = math.sqrt(low * high)
            between = _solved(head, rows, scale)
            if _nll(rows, between) < floor:
                high = scale
            else:
                low, start = scale, between
        return cls(best, weight, start)


@dataclass
class LinearProbes:
    """What the networks of a fit share: features of all training rows before the adapters change.

    Attributes:
        features: [N, d] of the encoder, None before the first network.
        answers: [N, C] float64 logits of all training rows under `LinearProbe.weight`, by the name
            of the part of the rows that it was fitted to.
    """

    features: Tensor | None = None
    answers: dict[str, Tensor] = field(default_factory=dict)

    def begin(
        self,
        network: Network,
        texts: LabelledTexts,
        rows: NDArray[np.int64] | None,
        *,
        seed: int,
        name: str,
    ) -> None:
        """Start a network's last layer at weights for its frozen features.

        Args:
            network: Network whose feature scale is set and whose adapter changes nothing yet.
            texts: All training rows.
            rows: Numbers of the rows to fit to; None for all. At most 2,048 are used.
            seed: Seed of the rows held out to choose τ.
            name: Name of this part of the rows.
        """
        if self.features is None:
            network.eval()
            self.features = network.encoder.features(texts.texts)
        own = np.arange(len(texts.labels)) if rows is None else rows
        # Evenly spaced, since rows may be sorted by class.
        own = own[np.unique(np.linspace(0, len(own) - 1, _MOST_ROWS).round().astype(int))]
        all_rows = network.scaled(self.features, texts.labels)
        head = network.head
        probe = LinearProbe.fitted(
            all_rows.take(torch.from_numpy(own)), len(head.mean_weight), seed, head.prior_centre()
        )
        # Rounding may differ between machines.
        current().broadcast_([probe.start])
        head.set_mean(probe.start.to(head.trained_mean))
        self.answers[name] = all_rows.double().logits(probe.weight).cpu()


def best_prior_scale(
    rows: Features,
    num_classes: int,
    seed: int,
    prior_mean: Tensor | None = None,
    *,
    folds: int = 1,
) -> tuple[float, float]:
    """Return the τ of `SCALES` with the lowest NLL on held-out rows, and this NLL in nats per row.

    Args:
        rows: N labelled rows in float64.
        num_classes: C.
        seed: Seed of the division into fifths.
        prior_mean: [C, d] M; None for zero.
        folds: Number of the fifths that are held out in turn.
    """
    if len(rows) < _FOLDS:
        return SCALES[0], math.log(num_classes)
    fold = torch.from_numpy(stratified_folds(rows.targets.cpu().numpy(), _FOLDS, seed))
    fold = fold.to(rows.values.device)
    paths = [
        (rows.take(fold == part), _path(rows.take(fold != part), num_classes, prior_mean))
        for part in range(folds)
    ]
    best, lowest = SCALES[0], math.inf
    for scale in SCALES:
        losses = [_nll(unseen, next(path)) * len(unseen) for unseen, path in paths]
        loss = sum(losses) / sum(len(unseen) for unseen, _ in paths)
        if loss >= lowest:
            break
        best, lowest = scale, loss
    return best, lowest


def _path(rows: Features, num_classes: int, prior_mean: Tensor | None) -> Iterator[Tensor]:
    """Yield W(τ) for each τ of `SCALES`."""
    head = _head(rows, num_classes, prior_mean)
    for scale in SCALES:
        yield _solved(head, rows, scale)


def _head(rows: Features, num_classes: int, prior_mean: Tensor | None) -> PointHead:
    square = float(rows.values.square().sum(-1).mean())
    head = PointHead(rows.values.shape[-1], num_classes, mean_sq_norm=square).to(rows.values)
    if prior_mean is not None:
        head.prior_mean = prior_mean.to(rows.values)
        head.set_mean(head.prior_mean)
    return head


def _solved(head: PointHead, rows: Features, scale: float) -> Tensor:
    """Move a head to W(τ) from where it is; return the weights [C, d]."""
    head.prior_scale = scale
    head.solve(rows, max_steps=_STEPS)
    return head.mean_weight.clone()


def _nll(rows: Features, weight: Tensor) -> float:
    return float(cross_entropy(rows.logits(weight), rows.targets))
