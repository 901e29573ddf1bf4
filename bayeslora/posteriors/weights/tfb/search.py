"""How much worse a metric gets on some training rows when the weights are drawn."""

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
    """Search for the widest noise on a network's adapters that some labelled rows allow.

    Args:
        config: Options of the search.
        fit: A network with the mean weights; the anchors are taken from its training rows.

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
    """Return a function that measures the relative loss of a metric under draws of the weights.

    Args:
        config: Which metric, whose labels, how many rows and draws.
        network: Trained; it holds the mean weights.
        weights: What is drawn from, with the same noise each time.
        texts: The training texts.
        labels: [N] int64.
        seed: Of the choice of rows, and of the noise.
        advance: Called with the number of texts after each batch of a pass.
    """
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(texts), generator=generator)[: config.num_anchors].tolist()

    def probs(num_samples: int) -> Tensor:
        found = sampled_logits(
            network, weights, texts, num_samples, seed=seed, rows=rows, advance=advance
        )
        return found.samples.softmax(-1).mean(0)

    mean = probs(0)
    truth = mean.argmax(1) if config.labels == "mean" else labels[rows].to(mean.device)
    before = _badness(config, mean, truth)

    def degradation() -> float:
        after = _badness(config, probs(config.num_search_samples), truth)
        # Of the accuracy, the loss counts relative to the accuracy.
        base = 1 - before if config.metric == "accuracy" else before
        if after <= before:
            return 0.0
        return (after - before) / base if base > 0 else math.inf

    return degradation


def _badness(config: TFB, probs: Tensor, labels: Tensor) -> float:
    """Return the NLL in nats per row, or the share of errors."""
    if config.metric == "nll":
        return nll(probs, labels)
    return float((probs.argmax(1) != labels).double().mean())
