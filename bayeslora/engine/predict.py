"""Logits of prepared texts under a trained posterior, and predictions from logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.engine.network import Network
from bayeslora.links import link_probabilities
from bayeslora.logits import ABSENT, AnyLogits, Logits, SampledLogits, mixed
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.fitted_scores import FeatureScores
from bayeslora.posteriors.types import Features, LastLayer
from bayeslora.predictions.record import Predictions

_BATCH = 64
# Rows per last-layer prediction, so that 1000 draws or a covariance of logits fit into memory.
_ROWS = 256


@dataclass(frozen=True)
class Answer:
    """A posterior's answer to N texts.

    Attributes:
        logits: Distribution of their logits.
        scores: Scores of their features by name, each [N].
    """

    logits: AnyLogits
    scores: Mapping[str, Tensor] = field(default_factory=dict)


def num_passes(posterior: Posterior, num_samples: int | None, num_members: int) -> int:
    """Return the number of passes through the adapted layers, without backward passes."""
    return num_members * posterior.num_passes(num_samples)


@torch.no_grad()
def answer(
    network: Network,
    members: Sequence[Mapping[str, Tensor]],
    posterior: Posterior,
    texts: PreparedTexts,
    *,
    features: Features | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> Iterator[Answer]:
    """Yield the distribution of the texts' logits in order, in several pieces if possible.

    Args:
        network: Network with the first member's tensors.
        members: Trained tensors of each member, whose answers are averaged; usually one.
        posterior: The trained posterior.
        texts: The texts.
        features: Features of the texts, if known; not used for draws of adapter weights.
        num_samples: Draws of a posterior over adapter weights, instead of its own number, or the
            most draws of a last layer with draws, evenly spaced; 0 for the mean network. Other
            posteriors ignore it and take the passes they need.
        seed: Seed of the draws.
        advance: Called with the number of texts after each batch of a pass.
    """
    network.eval()
    if len(members) > 1:
        yield from _of_members(network, members, texts, num_samples, advance)
        return
    sampled = posterior.sampled_logits(
        network, texts, num_samples=num_samples, seed=seed, advance=advance
    )
    if sampled is not None:
        yield Answer(sampled)
        return
    if features is None:
        features = network.features_of(texts, batch_size=_BATCH, advance=advance)
    gaussian = posterior.gaussian_logits(
        network, texts, features, num_samples=num_samples, advance=advance
    )
    if gaussian is not None:
        yield Answer(gaussian, _scores(network, features))
        return
    for rows in features.split(_ROWS):
        yield Answer(_last_layer_logits(network.head, rows, num_samples), _scores(network, rows))


def _of_members(
    network: Network,
    members: Sequence[Mapping[str, Tensor]],
    texts: PreparedTexts,
    num_samples: int | None,
    advance: Callable[[int], object],
) -> Iterator[Answer]:
    """Yield the mixed answers of several networks; the first is loaded afterwards."""
    by_member = []
    try:
        for state in members:
            network.load_trained_state(state)
            features = network.features_of(texts, batch_size=_BATCH, advance=advance)
            pieces = features.split(_ROWS)
            by_member.append(
                [_last_layer_logits(network.head, piece, num_samples) for piece in pieces]
            )
    finally:
        network.load_trained_state(members[0])
    for parts in zip(*by_member, strict=True):
        yield Answer(mixed(parts))


def _last_layer_logits(head: LastLayer, rows: Features, num_samples: int | None) -> Logits:
    logits: Logits = head.predict(rows)
    if num_samples is None or not isinstance(logits, SampledLogits):
        return logits
    return logits.thinned(num_samples) if num_samples else logits.at_mean()


def _scores(network: Network, rows: Features) -> dict[str, Tensor]:
    return network.feature_scores.of_features(rows.values, rows.middle) | network.head.scores_of(
        rows
    )


def to_predictions(
    answers: Iterable[Answer],
    classes: Sequence[str],
    *,
    link: str,
    num_samples: int,
    seed: int,
    feature_scores: FeatureScores,
    available: NDArray[np.bool_] | None,
    notes: Mapping[str, str],
    **fields: Any,
) -> Predictions:
    """Return the predictions of distributions of logits.

    Every method has the scores `logit_variance`, Σ_c Var(z_c − z̄); `energy`, −logsumexp of the
    mean logits; and `max_logit`, minus the largest of them. In all three a row's logits are shifted
    to sum to zero: softmax is invariant to shifts, so their value after training and their
    uncertainty under a prior are arbitrary. With two classes the latter two order rows like the
    largest probability of the mean logits, averaged over draws if there are any.

    Args:
        answers: Answers for N rows, in one or more pieces.
        classes: Names of the classes.
        link: Link from Gaussian logits to probabilities.
        num_samples: Draws of the link.
        seed: Seed of those draws.
        feature_scores: Fitted scores, for `unfamiliarity`, which needs the probabilities.
        available: [N, C], which options each row has; None for all. Scores use only these.
        notes: Further metadata.
        **fields: `labels`, `ids`, `columns` and `name` of the `Predictions`.
    """
    results, all_scores = [], []
    drawn: dict[str, str] = {}
    present = None if available is None or available.all() else torch.from_numpy(available)
    start = 0
    for piece in answers:
        count = len(piece.logits.mean)
        mask = None if present is None else present[start : start + count]
        start += count
        result = link_probabilities(piece.logits, link=link, num_samples=num_samples, seed=seed)
        scores = {
            "logit_variance": piece.logits.spread_of(mask),
            **_of_mean_logits(piece.logits, mask),
            **piece.scores,
        }
        doubt = 1 - result.probs.max(1).values
        scores |= feature_scores.of_probabilities(doubt, piece.scores)
        results.append(result)
        all_scores.append(scores)
        drawn = drawn or _how_drawn(piece.logits, link, num_samples)
    return Predictions(
        probs=_array([result.probs for result in results]),
        classes=tuple(classes),
        total=_array([result.total for result in results]),
        aleatoric=_array([result.aleatoric for result in results]),
        epistemic=_array([result.epistemic for result in results]),
        scores={name: _array([scores[name] for scores in all_scores]) for name in all_scores[0]},
        available=available,
        metadata={**drawn, "seed": str(seed), **notes},
        **fields,
    )


def _how_drawn(logits: AnyLogits, link: str, num_samples: int) -> dict[str, str]:
    if not isinstance(logits, SampledLogits):
        return {"link": link, "num_samples": str(num_samples)}
    # Sampled logits go through softmax one by one, whatever the link.
    link = "softmax" if logits.exact is None else "closed form"
    return {"link": link, "num_samples": str(len(logits.samples))}


def _of_mean_logits(logits: AnyLogits, present: Tensor | None) -> dict[str, Tensor]:
    # Exact logits, if there are any, do not depend on the draws.
    mean = (logits.at_mean() if isinstance(logits, SampledLogits) else logits).mean.double()
    if present is None:
        centred = mean - mean.mean(1, keepdim=True)
    else:
        present = present.to(mean.device)
        middle = torch.where(present, mean, 0.0).sum(1) / present.sum(1)
        centred = torch.where(present, mean - middle[:, None], ABSENT)
    return {"energy": -centred.logsumexp(1), "max_logit": -centred.max(1).values}


def _array(parts: Sequence[Tensor]) -> NDArray[np.float64]:
    array: NDArray[np.float64] = torch.cat([*parts]).detach().cpu().double().numpy()
    return array
