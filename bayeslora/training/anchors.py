"""How much worse a metric gets on some training rows when the weights are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.posteriors.config_weights import TFB
from bayeslora.posteriors.scores import nll
from bayeslora.posteriors.tfb import TFBWeights
from bayeslora.posteriors.types import WeightPosterior
from bayeslora.training.network import Network
from bayeslora.training.predict import sampled_logits
from bayeslora.training.progress import progress_bar
from bayeslora.training.rows import LabelledTexts


def choose_sigma(
    config: TFB,
    network: Network,
    weights: TFBWeights,
    rows: LabelledTexts,
    *,
    seed: int,
    shown: bool = False,
) -> None:
    """Search for the widest noise on a network's adapters that some labelled rows allow.

    Args:
        config: Options of the search.
        network: Trained; it holds the mean weights.
        weights: Its posterior, which keeps what was found.
        rows: Where the anchors are taken from.
        seed: Of their choice, and of the noise.
        shown: Whether to show a bar on stderr.

    Raises:
        InputError: An adapter's factors are rank deficient.
    """
    # The mean's pass, the upper end of the search, and its steps.
    passes = 1 + config.num_search_samples * (1 + config.num_steps)
    total = passes * min(config.num_anchors, len(rows.labels))
    with progress_bar("search for sigma", total, shown=shown, unit="text") as advance:
        degradation = degradation_on_anchors(
            config, network, weights, rows.texts, rows.labels, seed=seed, advance=advance
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
    """Return the NLL in nats a row, or the share of errors."""
    if config.metric == "nll":
        return nll(probs, labels)
    return float((probs.argmax(1) != labels).double().mean())
