"""Logits of prepared texts under a trained posterior, and the predictions that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.tokens import length_batches
from bayeslora.links import link_probabilities
from bayeslora.logits import GaussianLogits, SampledLogits
from bayeslora.posteriors.config import Ensemble, PosteriorConfig, Sampled
from bayeslora.posteriors.draws import sample_logits
from bayeslora.posteriors.dropout import MCDropoutDraws
from bayeslora.posteriors.ensemble import EnsembleDraws
from bayeslora.posteriors.types import WeightPosterior
from bayeslora.predictions import Predictions
from bayeslora.training.network import Network

_BATCH = 64


def num_passes(posterior: PosteriorConfig, num_samples: int | None) -> int:
    """Return how many passes of the adapted layers a prediction takes."""
    if isinstance(posterior, Sampled):
        return max(1, _num_draws(posterior, num_samples))
    return posterior.num_members if isinstance(posterior, Ensemble) else 1


@torch.no_grad()
def predict_logits(
    network: Network,
    members: Sequence[Mapping[str, Tensor]],
    posterior: PosteriorConfig,
    texts: PreparedTexts,
    *,
    num_samples: int | None = None,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> GaussianLogits | SampledLogits:
    """Return the logits' distribution for each text.

    Args:
        network: Holds the first member's tensors.
        members: Trained tensors of each member; one, unless the posterior is an ensemble.
        posterior: What was trained.
        texts: The texts.
        num_samples: Draws of a posterior over adapter weights, instead of its own number; 0 is
            the mean network. Other posteriors take the passes they need, whatever the number.
        seed: Of the draws.
        advance: Called with the number of texts after each batch of a pass.
    """
    network.eval()
    passes = num_passes(posterior, num_samples)
    draws: WeightPosterior
    if isinstance(posterior, Sampled) and _num_draws(posterior, num_samples) > 0:
        draws = MCDropoutDraws(network) if network.weights is None else network.weights
        return sampled_logits(network, draws, texts, passes, seed=seed, advance=advance)
    if isinstance(posterior, Ensemble):
        draws = EnsembleDraws(network.load_trained_state, members)
        return sampled_logits(network, draws, texts, passes, seed=seed, advance=advance)
    features = network.encoder.features(texts, batch_size=_BATCH, advance=advance)
    return network.head.predict(network.scaled(features))


def _num_draws(posterior: Sampled, num_samples: int | None) -> int:
    return posterior.num_samples if num_samples is None else num_samples


def to_predictions(
    logits: GaussianLogits | SampledLogits,
    classes: Sequence[str],
    *,
    link: str = "mc",
    num_samples: int = 1000,
    seed: int = 0,
    notes: Mapping[str, str] | None = None,
    **about: Any,
) -> Predictions:
    """Return the predictions that a logit distribution stands for.

    Args:
        logits: N rows.
        classes: Names of the classes.
        link: How Gaussian logits become probabilities.
        num_samples: Draws of the link.
        seed: Of those draws.
        notes: More of the metadata.
        **about: `labels`, `ids` and `name` of the `Predictions`.
    """
    result = link_probabilities(logits, link=link, num_samples=num_samples, seed=seed)
    # Logits that come as samples go through softmax one by one, whatever the link.
    drawn = {"link": link, "num_samples": str(num_samples)}
    if isinstance(logits, SampledLogits):
        drawn = {"link": "softmax", "num_samples": str(len(logits.samples))}
    return Predictions(
        probs=_array(result.probs),
        classes=tuple(classes),
        total=_array(result.total),
        aleatoric=_array(result.aleatoric),
        epistemic=_array(result.epistemic),
        scores={"logit_variance": _array(logits.variance.sum(1))},
        metadata={**drawn, "seed": str(seed), **(notes or {})},
        **about,
    )


def _array(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.detach().cpu().double().numpy()
    return array


def sampled_logits(
    network: Network,
    draws: WeightPosterior,
    texts: PreparedTexts,
    passes: int,
    *,
    seed: int,
    rows: Sequence[int] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> SampledLogits:
    """Return the logits [S, N, C] of each text under draws of the network's weights.

    Args:
        network: In evaluation mode.
        draws: What to draw from.
        texts: N texts, whose frozen prefix all draws share.
        passes: Draws S; 0 is one pass of the mean weights.
        seed: Of the draws.
        rows: Numbers of the texts to take; None takes all N.
        advance: Called with the number of texts after each batch of a pass.
    """
    chosen = range(len(texts)) if rows is None else rows
    lengths = texts.tokens.lengths if rows is None else texts.tokens.lengths[list(rows)]
    batches = list(length_batches(lengths, _BATCH))

    def logits(places: list[int]) -> Tensor:
        batch = texts.collate([chosen[place] for place in places])
        mean = network.head.predict(network(batch)).mean
        advance(len(places))
        return mean

    found = sample_logits(draws, logits, batches, passes, seed)
    order = torch.tensor([place for places in batches for place in places])
    return SampledLogits(found.samples[:, torch.argsort(order)])
