"""Stored states to features, posteriors and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayeslora.links import link_probabilities
from bayeslora.logits import GaussianLogits, SampledLogits
from bayeslora.posteriors import scores
from bayeslora.posteriors.build import Head, build
from bayeslora.posteriors.config import PosteriorConfig
from bayeslora.predictions import Predictions
from bayeslora.tasks.examples import Examples
from bayeslora.training.fit import LabelledTexts, scaled_features
from bayeslora.training.network import Network


@dataclass(frozen=True)
class Features:
    """Features of one split under one adapter state.

    Attributes:
        values: [N, d] float32, scaled as the head sees them.
        labels: [N] int64, -1 where there is no class.
    """

    values: Tensor
    labels: Tensor


def features_of(
    network: Network, state: Mapping[str, Tensor], splits: Mapping[str, LabelledTexts]
) -> dict[str, Features]:
    """Return the features of each split with `state` in place."""
    network.load_trained_state(state)
    values = {name: scaled_features(network, rows.texts) for name, rows in splits.items()}
    return {
        name: Features(item, splits[name].labels.to(item.device)) for name, item in values.items()
    }


def fitted_head(
    config: PosteriorConfig,
    trained: Head,
    train: Features,
    validation: Features | None,
) -> Head:
    """Return the last layer of `config`, fitted to features, from a trained head's weights.

    Args:
        config: Which posterior.
        trained: The head that trained with the adapter; its mean is the starting point.
        train: Training features.
        validation: For choosing the prior; None chooses it without.
    """
    classes, width = trained.mean_weight.shape
    head = build(config, width, classes).to(train.values.device)
    head.set_mean(trained.mean_weight)
    held = None if validation is None else (validation.values, validation.labels)
    head.fit(train.values, train.labels, held)
    return head


def to_predictions(
    name: str,
    logits: GaussianLogits | SampledLogits,
    rows: Examples,
    labels: Tensor,
    classes: tuple[str, ...],
    **options: Any,
) -> Predictions:
    """Return the predictions that a logit distribution stands for.

    Args:
        name: Of the method.
        logits: N rows.
        rows: The examples, for their ids.
        labels: [N] int64, -1 where there is no class.
        classes: Names of the classes.
        **options: `link`, `num_samples`, `seed` of `link_probabilities`.
    """
    result = link_probabilities(logits, **options)
    return Predictions(
        probs=result.probs.cpu().numpy(),
        classes=classes,
        labels=labels.numpy(),
        ids=rows.ids,
        total=result.total.cpu().numpy(),
        aleatoric=result.aleatoric.cpu().numpy(),
        epistemic=result.epistemic.cpu().numpy(),
        scores={"logit_variance": logits.variance.sum(1).cpu().numpy()},
        name=name,
    )


def nll(logits: GaussianLogits | SampledLogits, labels: Tensor) -> float:
    """Return the mean negative log-likelihood in nats, by the `mc` link."""
    return scores.nll(link_probabilities(logits).probs, labels)
