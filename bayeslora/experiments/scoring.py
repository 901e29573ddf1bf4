"""Stored states to features and posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bayeslora.links import link_probabilities
from bayeslora.logits import Logits
from bayeslora.posteriors import scores
from bayeslora.posteriors.build import Head, build
from bayeslora.posteriors.config import PosteriorConfig
from bayeslora.training.network import Network
from bayeslora.training.rows import LabelledTexts, scaled_features


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
    head = build(config, width, classes)
    head.to(train.values.device)
    head.set_mean(trained.mean_weight)
    held = None if validation is None else (validation.values, validation.labels)
    head.fit(train.values, train.labels, held)
    return head


def nll(logits: Logits, labels: Tensor) -> float:
    """Return the mean negative log-likelihood in nats, by the `mc` link."""
    return scores.nll(link_probabilities(logits).probs, labels)
