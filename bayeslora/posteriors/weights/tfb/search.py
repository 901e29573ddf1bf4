"""Deterioration of a metric on training rows under draws of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.posteriors.scores import nll
from bayeslora.posteriors.types import Network, WeightPosterior
from bayeslora.posteriors.weights.draws import sampled_logits
from bayeslora.posteriors.weights.tfb.options import TFB
from bayeslora.posteriors.weights.tfb.posterior import TFBWeights
from bayeslora.posteriors.weights.training import FinalFit, own_weights


def choose_sigma(config: TFB, fit: FinalFit) -> None:
    """Search for the widest noise on a network's adapters that is tolerated on anchor rows.

    Args:
        config: Options of the search.
        fit: A network with the mean weights, and the training rows to take the anchors from.

    Raises:
        InputError: An adapter's factors are rank deficient.
    """
    weights = own_weights(fit.network, TFBWeights)
    texts, labels = fit.train
    # The mean's pass, the upper end of the search, and its steps.
    passes = 1 + config.num_search_samples * (1 + config.num_steps)
    with fit.open_bar("search for sigma", passes * min(config.num_anchors, len(labels))) as advance:
        degradation = degradation_on_anchors(
            config, fit.network, weights, texts, labels, seed=fit.seed, advance=advance
        )
        weights.fit(config, degradation)


def degradation_on_anchors(
    config: TFB,
    network: Network,
    weights: WeightPosterior,
    texts: PreparedTexts,
    labels: Tensor,
    *,
    seed: int,
    advance: Callable[[int], object] = lambda _: None,
) -> Callable[[], float]:
    """Return a function that measures the relative deterioration of a metric under weight draws.

    Args:
        config: Metric, labels, and numbers of anchors and draws.
        network: Trained, with the mean weights.
        weights: Posterior to draw from, with the same noise each time.
        texts: The training texts.
        labels: [N] int64.
        seed: Seed of the choice of rows and of the noise.
        advance: Called with the number of texts after each batch of a pass.
    """
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(texts), generator=generator)[: config.num_anchors].tolist()

    def probs(num_samples: int) -> Tensor:
        logits = sampled_logits(
            network, weights, texts, num_samples, seed=seed, rows=rows, advance=advance
        )
        return logits.samples.softmax(-1).mean(0)

    mean = probs(0)
    truth = mean.argmax(1) if config.labels == "mean" else labels[rows].to(mean.device)
    baseline = _badness(config, mean, truth)

    def degradation() -> float:
        score = _badness(config, probs(config.num_search_samples), truth)
        # For the accuracy, the loss is relative to the accuracy.
        reference = 1 - baseline if config.metric == "accuracy" else baseline
        if score <= baseline:
            return 0.0
        return (score - baseline) / reference if reference > 0 else math.inf

    return degradation


def _badness(config: TFB, probs: Tensor, labels: Tensor) -> float:
    """Return the NLL in nats per row, or the error rate."""
    if config.metric == "nll":
        return nll(probs, labels)
    return float((probs.argmax(1) != labels).double().mean())
