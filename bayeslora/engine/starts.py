"""Where a network starts: linear probes, the language model's answer, and averages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.reading import Verbaliser, class_rows, class_words
from bayeslora.data.examples import Examples
from bayeslora.data.splits import stratified_folds
from bayeslora.engine.network import Network, unscaled
from bayeslora.foreign import find_layers
from bayeslora.links import hard
from bayeslora.posteriors.base import FEW_ROWS
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.types import Features
from bayeslora.processes import current

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_FOLDS = 5
_MOST_ROWS = 2048
_STEPS = 50
_KEPT_ENTROPY = 0.5
_BISECTIONS = 3


@dataclass(frozen=True)
class LinearProbe:
    """Last layers on frozen features, where training starts and what a fit has to beat.

        W(τ) = argmin_W  Σ_n −log softmax(W φ_n)_{y_n} + ‖W − M‖² mean ‖φ‖² / (2τ²)

    From zero, gradient steps small enough not to be dominated by noise do not reach the weights
    that separate dozens of classes, and meanwhile the adapter follows a head that knows nothing. So
    training starts at W(τ) for the largest τ at which two conditions hold: τ is at most the one of
    `SCALES` with the lowest NLL on held-out rows, and the training rows keep half of the entropy of
    their labels. A head that already explains all of them would leave the adapter nothing to learn.

    Source: linear probing before fine-tuning, Kumar et al. 2022, arXiv 2202.10054.

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
        shares = torch.bincount(hard(rows.targets)).double() / len(rows)
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
        texts: PreparedTexts,
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
            self.features = network.encoder.features(texts)
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
    rows: Features, num_classes: int, seed: int, prior_mean: Tensor | None = None, *, folds: int = 1
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
    fold = torch.from_numpy(stratified_folds(hard(rows.targets).cpu().numpy(), _FOLDS, seed))
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


# Ridge penalty relative to the variance of the states; near the best for 32 to 640 texts.
_RIDGE = 0.1
# Words for a class, as opposed to its number: "3", "LABEL_1", "c2".
_NAME = re.compile(r"^(?!(?:label|class)\b)\D*[^\W\d_]{2}", re.IGNORECASE)
# More texts improve a lens little.
_ENOUGH_TEXTS = 256
_LARGEST_FACTOR = 4.0


@dataclass(frozen=True)
class ClassPrior:
    """Prior mean of a last layer from the language model: its own answer before any label.

        m0 = c · (rows of the language-model head for the words of the classes − their mean answer)

    The mean answer is that to the training texts, without their labels, because a language model
    prefers some words whatever the text. At a lower depth, or with a trained adapter, the states
    differ from those that the head was made for. A lens replaces the rows: weights that predict the
    whole model's class logits from these states, by ridge regression on texts without their labels,
    augmented by parts and mixtures of the texts if these are few. The factor c is chosen by the
    labels and is near zero if the words are unrelated to the classes.

    Sources: Zhou et al. 2024, arXiv 2309.17249, for the mean answer; Belrose et al. 2023, arXiv
    2303.08112, for the lens.

    Attributes:
        rows: [C, d] float32, for the last hidden states of `whole`.
        whole: The backbone with all its layers.
        examples: The texts to answer, which are augmented if they are few.
        leads: Whether training starts at the prior mean too, whatever the last layer.
    """

    rows: Tensor
    whole: Backbone
    examples: Examples | None = None
    leads: bool = False

    @torch.no_grad()
    def centre(
        self,
        network: Network,
        train: PreparedTexts,
        states: Tensor | None = None,
        *,
        start: bool = True,
    ) -> float:
        """Centre a last layer's prior at the language model's answer; return its factor c.

        Args:
            network: Network with its feature scale set.
            train: Texts for the lens, and labels for the factor.
            states: [N, d] unscaled features of the texts; None computes them.
            start: Whether the network is fresh: its adapter, if any, changes nothing yet, and its
                weights start at the prior mean too.
        """
        states = network.encoder.features(train) if states is None else states
        weight, answers, rows = self.weight(network, train, states, fresh=start)
        # From the language model's own logits, since an adapter's features have seen the labels.
        factor = best_factor(answers.numpy(), hard(train.labels).cpu().numpy()[rows])
        mean = factor * float(network.feature_scale) * weight
        network.head.set_prior_mean(mean.to(network.head.mean_weight), start=start)
        return factor

    @torch.no_grad()
    def weight(
        self, network: Network, texts: PreparedTexts, states: Tensor, *, fresh: bool = True
    ) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Return the language model's answer minus its mean.

        Args:
            network: Network that computes the features.
            texts: N texts; labels are not needed.
            states: [N, d] their unscaled features.
            fresh: Whether its adapter, if any, changes nothing yet.

        Returns:
            Rows [C, d] for unscaled features, the answers to M of the texts as logits [M, C], and
            the row numbers of these texts [M].
        """
        encoder = network.encoder
        if not isinstance(encoder, Encoder):
            raise TypeError("a finished classifier has a last layer already")
        weight = self.rows.double().cpu()
        # The known logits tell which options a question lacks.
        features = unscaled(encoder, states.double())
        states, known = features.values, features.known
        if fresh and encoder.backbone.depth is None and encoder.pooling == "last":
            weight = without_mean_answer(weight, states)
            return weight, _plus(states @ weight.T, known), np.arange(len(states))
        # The whole model's last states start from the cached ones.
        whole = Encoder(
            self.whole,
            layers_path=find_layers(self.whole.model)[0],
            start=encoder.first_running_layer,
            max_length=encoder.max_length,
            pooling="last",
        )
        # Evenly spaced, since rows may be sorted by class.
        rows = np.linspace(0, len(states) - 1, min(len(states), _ENOUGH_TEXTS)).round().astype(int)
        below = states[rows]
        above = _last_states(whole, texts, rows.tolist())
        answers = above @ without_mean_answer(weight, above).T
        answers = _plus(answers, None if known is None else known[rows])
        missing = _ENOUGH_TEXTS - len(states)
        if missing > 0 and self.examples is not None:
            extra = encoder.prepare(*varied(self.examples, missing))
            below = torch.cat([below, _last_states(encoder, extra)])
            above = torch.cat([above, _last_states(whole, extra)])
            encoder.forget(extra)
        logits = above @ weight.T
        weight = lens(below, logits - logits.mean(1, keepdim=True))
        return without_mean_answer(weight, states), answers, rows


def _last_states(
    encoder: Encoder, texts: PreparedTexts, rows: Sequence[int] | None = None
) -> Tensor:
    """Return the features [N, d] float64 of texts."""
    return unscaled(encoder, encoder.features(texts, rows=rows).double()).values


def class_prior(
    whole: Backbone,
    classes: Sequence[str],
    verbaliser: Verbaliser | None,
    examples: Examples,
    *,
    at_once: bool,
    leads: bool,
) -> ClassPrior | None:
    """Return a backbone's rows for the classes, or None if the prior mean is zero.

    By default they are used if they are cheap and help: for a decoder with tied embeddings that
    reads texts in a template, a last layer that is fitted at once, classes whose names are words,
    and at most 256 rows, beyond which labels know better.

    Args:
        whole: Backbone with all its layers.
        classes: C names in index order.
        verbaliser: Words by class name, or `names` or `none`; None for the default.
        examples: The texts to answer; labels are not read.
        at_once: Whether the last layer is fitted to features that no longer change.
        leads: See `ClassPrior`.

    Raises:
        InputError: The words are not allowed, or the backbone has no language-model head.
    """
    by_default = at_once and len(examples) <= FEW_ROWS and _is_at_hand(whole, classes)
    if verbaliser == "none" or (verbaliser is None and not by_default):
        return None
    mapping = verbaliser if isinstance(verbaliser, Mapping) else {}
    return ClassPrior(class_rows(whole, class_words(classes, mapping)), whole, examples, leads)


def _is_at_hand(whole: Backbone, classes: Sequence[str]) -> bool:
    """Return whether a backbone's answer is cheap and the classes have distinct names."""
    if whole.kind != "decoder" or whole.template is None:
        return False
    tied = getattr(whole.model.config, "tie_word_embeddings", False)
    words = class_words(classes)
    return tied and all(map(says_something, words)) and len({*words}) == len(words)


def says_something(words: str) -> bool:
    """Return whether a class's words are a name, not a number such as `LABEL_1`."""
    return _NAME.search(words) is not None


def varied(examples: Examples, count: int) -> tuple[list[str], list[str] | None]:
    """Return augmented texts of examples, with second texts if they have some.

    Runs of an example's words alternate with the first half of one example followed by the second
    half of another. Without spaces, letters replace words.

    Args:
        examples: N >= 1.
        count: Number of texts.
    """
    rng = np.random.default_rng(0)
    spaced = any(" " in text for text in examples.texts)
    parts = [text.split() if spaced else list(text) for text in examples.texts]
    between = " " if spaced else ""
    rows = rng.integers(len(parts), size=(count, 2))
    texts = []
    for index, (first_row, second_row) in enumerate(rows):
        first, second = parts[first_row], parts[second_row]
        if index % 2:
            chosen = first[: (len(first) + 1) // 2] + second[len(second) // 2 :]
        else:
            length = int(rng.integers(1, len(first) + 1))
            start = int(rng.integers(len(first) - length + 1))
            chosen = first[start : start + length]
        texts.append(between.join(chosen))
    pairs = examples.pairs
    return texts, None if pairs is None else [pairs[row] for row, _ in rows]


def _plus(logits: Tensor, known: Tensor | None) -> Tensor:
    # Missing options must stay absent at any factor that `best_factor` tries.
    return logits if known is None else logits + 1e6 * known


def lens(states: Tensor, logits: Tensor) -> Tensor:
    """Return rows [C, d] such that `states @ rows.T` approximates `logits`, by ridge regression.

    Args:
        states: [N, d] float64.
        logits: [N, C] float64.
    """
    variance = (states - states.mean(0)).square().sum() / len(states)
    wide = len(states) < states.shape[1]
    gram = states @ states.T if wide else states.T @ states
    ridge = gram + _RIDGE * variance * torch.eye(len(gram), dtype=gram.dtype)
    weight: Tensor
    if wide:
        weight = torch.linalg.solve(ridge, logits).T @ states
    else:
        weight = torch.linalg.solve(ridge, states.T @ logits).T
    return weight


def without_mean_answer(rows: Tensor, states: Tensor) -> Tensor:
    """Return rows [C, d] whose mean logits over [N, d] states are zero.

    The subtracted part is along the mean state, whose product with any state is nearly constant.
    """
    centre = states.mean(0)
    centred: Tensor = rows - torch.outer(rows @ centre, centre) / centre.square().sum()
    return centred


def best_factor(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the factor c ≥ 0 that maximises the posterior density under a half-normal(1) prior.

    Args:
        logits: [N, C].
        labels: [N] class indices.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    right = logits[np.arange(len(labels)), labels]

    def loss(factor: float) -> float:
        fit = factor * right - logsumexp(factor * logits, axis=1)
        return float(0.5 * factor**2 - fit.sum())

    result = minimize_scalar(loss, bounds=(0.0, _LARGEST_FACTOR), method="bounded")
    return float(result.x)


class Average:
    """The average of several networks of one fit, which differ in their trained tensors only.

        ΔW̄ = (1/K) Σ_k ΔW_k ,   w̄ = (1/K) Σ_k w_k / σ_k

    ΔW_k are the changes of the weights, w_k the trained weights of the last layers, and σ_k the
    scales of their features. The part of ΔW̄ of the adapter's rank is kept. Factors are not
    averaged: those of a change are not unique.

    Source: of whole networks Wortsman et al. 2022, arXiv 2203.05482.

    Attributes:
        count: Number of networks so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._changes: list[list[tuple[Tensor, Tensor]]] = []
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def add(self, network: Network) -> None:
        """Add a trained network."""
        changes = [site.change() for site in network.sites]
        weight = network.head.trained_mean.double() / network.feature_scale
        # On the CPU, since they stay during the next fit.
        self._changes.append([(A.cpu().clone(), B.cpu().clone()) for A, B in changes])
        self._weights.append(weight.cpu())
        self.count += 1

    @torch.no_grad()
    def load(self, network: Network) -> None:
        """Give a network the average of those added; its last layer has yet to be fitted."""
        for site, changes in zip(network.sites, zip(*self._changes, strict=True), strict=True):
            As, Bs = zip(*changes, strict=True)
            device = site.weight.device
            site.set_change(torch.cat(As).to(device), torch.cat(Bs, 1).to(device) / self.count)
        weight = torch.stack(self._weights).mean(0).to(network.feature_scale.device)
        network.head.set_mean((weight * network.feature_scale).to(network.head.trained_mean))
        # Decompositions may differ between machines.
        current().broadcast_([item for site in network.sites for item in site.trainable().values()])


def can_average(network: Network) -> bool:
    """Return whether the network is determined by changes of its weights and a last layer."""
    return (
        bool(network.sites)
        and network.weights is None
        and network.companion is None
        and all(site.can_set_change for site in network.sites)
    )
