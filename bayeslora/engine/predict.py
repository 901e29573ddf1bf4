"""Logits of prepared texts under a trained posterior, and the predictions that they stand for."""

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
from bayeslora.posteriors.feature_scores.fitted import FeatureScores
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.types import LastLayer
from bayeslora.predictions.record import Predictions

_BATCH = 64
# Rows of a last layer at a time: a thousand draws or a covariance of their logits fit into memory.
_ROWS = 256


@dataclass(frozen=True)
class Answer:
    """What a posterior says of some texts.

    Attributes:
        logits: The distribution of their logits.
        scores: Scores of their features, [N] by name.
    """

    logits: AnyLogits
    scores: Mapping[str, Tensor] = field(default_factory=dict)


def num_passes(posterior: Posterior, num_samples: int | None, num_members: int) -> int:
    """Return how many passes of the adapted layers a prediction takes, backward ones apart."""
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
    """Yield the logits' distribution of the texts, in order and where it can be some at a time.

    Args:
        network: Holds the first member's tensors.
        members: Trained tensors of each member, whose answers are averaged; most often one.
        posterior: What was trained.
        texts: The texts.
        features: Of the texts, where they are known; draws of other weights have their own.
        num_samples: Draws of a posterior over adapter weights, instead of its own number, or the
            most draws of a last layer that has some, evenly spaced; 0 is the mean network. Other
            posteriors take the passes they need, whatever the number.
        seed: Of the draws.
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
        raw = network.encoder.features(texts, batch_size=_BATCH, advance=advance)
        features = network.scaled(raw)
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
    """Yield what several networks say together; the first is in place afterwards."""
    by_member = []
    try:
        for state in members:
            network.load_trained_state(state)
            raw = network.encoder.features(texts, batch_size=_BATCH, advance=advance)
            rows = network.scaled(raw).split(_ROWS)
            by_member.append([_last_layer_logits(network.head, one, num_samples) for one in rows])
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
    return network.feature_scores.of_features(rows.values) | network.head.scores_of(rows)


def to_predictions(
    answers: Iterable[Answer],
    classes: Sequence[str],
    *,
    link: str = "mc",
    num_samples: int = 1000,
    seed: int = 0,
    feature_scores: FeatureScores | None = None,
    available: NDArray[np.bool_] | None = None,
    notes: Mapping[str, str] | None = None,
    **about: Any,
) -> Predictions:
    """Return the predictions that distributions of logits stand for.

    Every method gets the scores `logit_variance`, Σ_c Var(z_c − z̄); `energy`, −logsumexp of the
    mean logits; and `max_logit`, minus the highest of them. In all three a row's logits are
    shifted to sum to zero: softmax cannot see a shift, so what training left of it, and how
    uncertain a prior leaves it, are arbitrary. With two classes the latter two order rows as the
    highest probability of the mean logits, averaged over draws where there are some, does.

    Args:
        answers: N rows, in one piece or several.
        classes: Names of the classes.
        link: How Gaussian logits become probabilities.
        num_samples: Draws of the link.
        seed: Of those draws.
        feature_scores: Give `unfamiliarity`, where it is among them.
        available: [N, C], which options each row has; None for all. The scores are of these.
        notes: More of the metadata.
        **about: `labels`, `ids`, `columns` and `name` of the `Predictions`.
    """
    results, found = [], []
    drawn: dict[str, str] = {}
    present = None if available is None or available.all() else torch.from_numpy(available)
    start = 0
    for one in answers:
        count = len(one.logits.mean)
        some = None if present is None else present[start : start + count]
        start += count
        result = link_probabilities(one.logits, link=link, num_samples=num_samples, seed=seed)
        scores = {
            "logit_variance": one.logits.spread_of(some),
            **_of_mean_logits(one.logits, some),
            **one.scores,
        }
        if feature_scores is not None:
            doubt = 1 - result.probs.max(1).values
            scores |= feature_scores.of_probabilities(doubt, one.scores)
        results.append(result)
        found.append(scores)
        drawn = drawn or _how_drawn(one.logits, link, num_samples)
    return Predictions(
        probs=_array([one.probs for one in results]),
        classes=tuple(classes),
        total=_array([one.total for one in results]),
        aleatoric=_array([one.aleatoric for one in results]),
        epistemic=_array([one.epistemic for one in results]),
        scores={name: _array([one[name] for one in found]) for name in found[0]},
        available=available,
        metadata={**drawn, "seed": str(seed), **(notes or {})},
        **about,
    )


def _how_drawn(logits: AnyLogits, link: str, num_samples: int) -> dict[str, str]:
    if not isinstance(logits, SampledLogits):
        return {"link": link, "num_samples": str(num_samples)}
    # Logits that come as samples go through softmax one by one, whatever the link.
    link = "softmax" if logits.exact is None else "closed form"
    return {"link": link, "num_samples": str(len(logits.samples))}


def _of_mean_logits(logits: AnyLogits, present: Tensor | None) -> dict[str, Tensor]:
    # Exact logits, where there are some, do not depend on the draws.
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
