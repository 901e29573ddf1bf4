"""A last layer's prior mean from the language model: its own answer before any label.

    m0 = c · (rows of the language-model head for the words of the classes, less their mean answer)

The mean answer is that to the training texts, without their labels: a language model prefers some
words whatever the text.
At a lower depth, and where an adapter was trained, the states are others than those that the head
was made for. A lens stands in: the rows that predict the whole model's class logits from these
states, by ridge regression on texts without their labels; parts and mixtures of the texts join them
where they are few. The factor c is chosen by the labels, and is near zero where the words say
nothing of the classes.

Sources: Zhou et al. 2024, arXiv 2309.17249, for the mean answer; Belrose et al. 2023, arXiv
2303.08112, for the lens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.verbaliser import Verbaliser, class_rows, class_words
from bayeslora.engine.network import Network, unscaled
from bayeslora.engine.rows import LabelledTexts
from bayeslora.layer_list import find_layers
from bayeslora.posteriors.base import FEW_ROWS
from bayeslora.tasks.examples import Examples

# Ridge penalty relative to the mean square of the states, about the best at 32 to 640 texts.
_RIDGE = 0.1
# Words for a class, and no number of one: "3", "LABEL_1", "c2".
_NAME = re.compile(r"^(?!(?:label|class)\b)\D*[^\W\d_]{2}", re.IGNORECASE)
# A lens of more texts is better by little.
_ENOUGH_TEXTS = 256
_LARGEST_FACTOR = 4.0


@dataclass(frozen=True)
class ClassPrior:
    """Rows of the language-model head, and the model that they belong to.

    Attributes:
        rows: [C, d] float32, for the last hidden states of `whole`.
        whole: The backbone with all its layers.
        examples: The texts that it will be asked about, to make more of where they are few.
        leads: Whether the training starts there too, whatever the last layer.
    """

    rows: Tensor
    whole: Backbone
    examples: Examples | None = None
    leads: bool = False

    @torch.no_grad()
    def mean(
        self,
        network: Network,
        train: LabelledTexts,
        states: Tensor | None = None,
        *,
        fresh: bool = True,
    ) -> tuple[Tensor, float]:
        """Return the prior mean [C, d] of a network's last layer, and the factor c in it.

        Args:
            network: Its feature scale is set.
            train: Texts for the lens, and labels for the factor.
            states: [N, d] features of the texts, unscaled, where they are known.
            fresh: Whether its adapter, if any, changes nothing yet.
        """
        states = network.encoder.features(train.texts) if states is None else states
        weight, answers, rows = self.weight(network, train.texts, states, fresh=fresh)
        # Of the language model's own logits: those of an adapter's features know the labels.
        factor = best_factor(answers.numpy(), train.labels.cpu().numpy()[rows])
        return factor * float(network.feature_scale) * weight, factor

    @torch.no_grad()
    def weight(
        self, network: Network, texts: PreparedTexts, states: Tensor, *, fresh: bool = True
    ) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Return the language model's answer less its mean.

        Args:
            network: Its features are those of the texts now.
            texts: N texts; labels are not needed.
            states: [N, d] their features.
            fresh: See `mean`.

        Returns:
            Rows [C, d] for unscaled features, and the answers themselves, logits [M, C], to M of
            the texts, whose numbers come last.
        """
        encoder = network.encoder
        if not isinstance(encoder, Encoder):
            raise TypeError("a finished classifier has a last layer already")
        weight = self.rows.double().cpu()
        # What is known of the logits says which options a question lacks.
        found = unscaled(encoder, states.double())
        states, known = found.values, found.known
        if fresh and encoder.backbone.depth is None and encoder.pooling == "last":
            weight = without_mean_answer(weight, states)
            return weight, _plus(states @ weight.T, known), np.arange(len(states))
        whole = self._whole(encoder)
        # Evenly spread, since rows may be sorted by class.
        rows = np.linspace(0, len(states) - 1, min(len(states), _ENOUGH_TEXTS)).round().astype(int)
        below = states[rows]
        above = _last_states(whole, texts, rows.tolist())
        answers = above @ without_mean_answer(weight, above).T
        answers = _plus(answers, None if known is None else known[rows])
        missing = _ENOUGH_TEXTS - len(states)
        if missing > 0 and self.examples is not None:
            more = encoder.prepare(*varied(self.examples, missing))
            more = encoder.with_contexts(more, None)
            below = torch.cat([below, _last_states(encoder, more)])
            above = torch.cat([above, _last_states(whole, more)])
            encoder.forget(more)
        logits = above @ weight.T
        weight = lens(below, logits - logits.mean(1, keepdim=True))
        return without_mean_answer(weight, states), answers, rows

    def _whole(self, encoder: Encoder) -> Encoder:
        """Return what gives the last states of the whole model, from the cached ones on."""
        path, _ = find_layers(self.whole.model)
        return Encoder(
            self.whole,
            layers_path=path,
            start=encoder.first_running_layer,
            max_length=encoder.max_length,
            pooling="last",
        )


def _last_states(
    encoder: Encoder, texts: PreparedTexts, rows: Sequence[int] | None = None
) -> Tensor:
    """Return the features [N, d] float64 of texts."""
    return unscaled(encoder, encoder.features(texts, rows=rows).double()).values


def centre(
    network: Network,
    prior: ClassPrior,
    train: LabelledTexts,
    states: Tensor | None = None,
    *,
    start: bool = True,
) -> float:
    """Centre the last layer's prior at the language model's answer; return the factor in it.

    Args:
        network: See `ClassPrior.mean`, and for the others.
        prior: What the language model says of the classes.
        train: Training rows.
        states: Their features, where they are known.
        start: Whether the network is fresh, and the weights start there too.
    """
    mean, factor = prior.mean(network, train, states, fresh=start)
    network.head.set_prior_mean(mean.to(network.head.mean_weight), start=start)
    return factor


def class_prior(
    whole: Backbone,
    classes: Sequence[str],
    verbaliser: Verbaliser | None,
    examples: Examples | None = None,
    *,
    at_once: bool = True,
    leads: bool = False,
) -> ClassPrior | None:
    """Return what a backbone says of the classes, or None where it is not asked.

    By default it is asked where its answer is at hand and helps: a decoder whose head is its table
    of embeddings, that reads texts in a template, a last layer that is fitted at once, classes
    whose names are words, and at most 256 rows, beyond which labels know better.

    Args:
        whole: With all its layers.
        classes: C names in index order.
        verbaliser: Words by class name, or `names` or `none`; None for the default.
        examples: The texts that it will be asked about; labels are not read.
        at_once: Whether the last layer is fitted to features that no longer change.
        leads: See `ClassPrior`.

    Raises:
        InputError: The words are not allowed, or the backbone has no language-model head.
    """
    few = examples is not None and len(examples) <= FEW_ROWS
    usual = at_once and few and _is_at_hand(whole, classes)
    if verbaliser == "none" or (verbaliser is None and not usual):
        return None
    given = verbaliser if isinstance(verbaliser, Mapping) else {}
    return ClassPrior(class_rows(whole, class_words(classes, given)), whole, examples, leads)


def _is_at_hand(whole: Backbone, classes: Sequence[str]) -> bool:
    """Return whether a backbone's answer costs little, and the classes have names to ask for."""
    if whole.kind != "decoder" or whole.template is None:
        return False
    tied = getattr(whole.model.config, "tie_word_embeddings", False)
    words = class_words(classes)
    return tied and all(map(says_something, words)) and len({*words}) == len(words)


def says_something(words: str) -> bool:
    """Return whether a class's words are a name, and no number of one such as `LABEL_1`."""
    return _NAME.search(words) is not None


def varied(examples: Examples, count: int) -> tuple[list[str], list[str] | None]:
    """Return texts, and second texts where there are any, like those of examples.

    One is a run of an example's words, the next the first half of one with the second half of
    another; where there are no spaces, letters take the place of words.

    Args:
        examples: N >= 1.
        count: How many.
    """
    draw = np.random.default_rng(0)
    spaced = any(" " in text for text in examples.texts)
    parts = [text.split() if spaced else list(text) for text in examples.texts]
    between = " " if spaced else ""
    rows = draw.integers(len(parts), size=(count, 2))
    texts = []
    for place, (one, other) in enumerate(rows):
        first, second = parts[one], parts[other]
        if place % 2:
            chosen = first[: (len(first) + 1) // 2] + second[len(second) // 2 :]
        else:
            length = int(draw.integers(1, len(first) + 1))
            start = int(draw.integers(len(first) - length + 1))
            chosen = first[start : start + length]
        texts.append(between.join(chosen))
    pairs = examples.pairs
    return texts, None if pairs is None else [pairs[one] for one, _ in rows]


def _plus(logits: Tensor, known: Tensor | None) -> Tensor:
    # An option that a question lacks is to stay absent at any factor that `best_factor` tries.
    return logits if known is None else logits + 1e6 * known


def lens(states: Tensor, logits: Tensor) -> Tensor:
    """Return rows [C, d] with `states @ rows.T` near `logits`, by ridge regression.

    Args:
        states: [N, d] float64.
        logits: [N, C] float64.
    """
    spread = (states - states.mean(0)).square().sum() / len(states)
    wide = len(states) < states.shape[1]
    gram = states @ states.T if wide else states.T @ states
    ridge = gram + _RIDGE * spread * torch.eye(len(gram), dtype=gram.dtype)
    found: Tensor
    if wide:
        found = torch.linalg.solve(ridge, logits).T @ states
    else:
        found = torch.linalg.solve(ridge, states.T @ logits).T
    return found


def without_mean_answer(rows: Tensor, states: Tensor) -> Tensor:
    """Return rows [C, d] whose mean logits over [N, d] states are zero.

    What is taken off lies along the mean state, whose product with any state is about constant.
    """
    centre = states.mean(0)
    found: Tensor = rows - torch.outer(rows @ centre, centre) / centre.square().sum()
    return found


def best_factor(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the factor c ≥ 0 of maximal posterior density under a half-normal prior of scale 1.

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

    found = minimize_scalar(loss, bounds=(0.0, _LARGEST_FACTOR), method="bounded")
    return float(found.x)
