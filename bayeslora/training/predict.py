"""Logits of prepared texts under a trained posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.logits import GaussianLogits, SampledLogits
from bayeslora.posteriors.config import MCDropout, PosteriorConfig
from bayeslora.training.network import Network


def num_passes(posterior: PosteriorConfig, members: int, num_samples: int | None) -> int:
    """Return how many passes of the adapted layers a prediction takes."""
    if isinstance(posterior, MCDropout):
        return max(1, posterior.num_samples if num_samples is None else num_samples)
    return members


@torch.no_grad()
def predict_logits(
    networks: Sequence[Network],
    posterior: PosteriorConfig,
    texts: PreparedTexts,
    *,
    num_samples: int | None = None,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> GaussianLogits | SampledLogits:
    """Return the logits' distribution for each text.

    Args:
        networks: One trained network, or the members of an ensemble.
        posterior: What was trained.
        texts: The texts.
        num_samples: Passes of MC dropout, instead of the posterior's own number; 0 is the mean
            network. The last-layer posteriors need one pass whatever the number.
        seed: Of the draws.
        advance: Called with the number of texts after each pass of a batch.
    """
    if isinstance(posterior, MCDropout):
        samples = posterior.num_samples if num_samples is None else num_samples
        if samples > 0:
            return _dropout_logits(networks[0], texts, samples, seed, advance)
    means = []
    for network in networks:
        network.eval()
        features = network.encoder.features(texts, advance=advance) / network.feature_scale.cpu()
        logits = network.head.predict(features)
        if len(networks) == 1:
            return logits
        means.append(logits.mean)
    return SampledLogits(torch.stack(means))
