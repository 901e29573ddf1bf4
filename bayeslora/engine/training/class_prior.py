"""Prior mean of a last layer from the language model: its own answer before any label.

    m0 = c · (rows of the language-model head for the words of the classes − their mean answer)

The mean answer is that to the training texts, without their labels, because a language model
prefers some words whatever the text. At a lower depth, or with a trained adapter, the states differ
from those that the head was made for. A lens replaces the rows: weights that predict the whole
model's class logits from these states, by ridge regression on texts without their labels, augmented
by parts and mixtures of the texts if these are few. The factor c is chosen by the labels and is
near zero if the words are unrelated to the classes.

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
from bayeslora.data.examples import Examples
from bayeslora.engine.network import Network, unscaled
from bayeslora.engine.rows import LabelledTexts
from bayeslora.layer_list import find_layers
from bayeslora.posteriors.base import FEW_ROWS

# Ridge penalty relative to the variance of the states; near the best for 32 to 640 texts.
_RIDGE = 0.1
# Words for a class, as opposed to its number: "3", "LABEL_1", "c2".
_NAME = re.compile(r"^(?!(?:label|class)\b)\D*[^\W\d_]{2}", re.IGNORECASE)
# More texts improve a lens little.
_ENOUGH_TEXTS = 256
_LARGEST_FACTOR = 4.0


@dataclass(frozen=True)
class ClassPrior:
    """Rows of the language-model head and their backbone.

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
        train: LabelledTexts,
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
        states = network.encoder.features(train.texts) if states is None else states
        weight, answers, rows = self.weight(network, train.texts, states, fresh=start)
        # From the language model's own logits, since an adapter's features have seen the labels.
        factor = best_factor(answers.numpy(), train.labels.cpu().numpy()[rows])
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
        whole = self._whole(encoder)
        # Evenly spaced, since rows may be sorted by class.
        rows = np.linspace(0, len(states) - 1, min(len(states), _ENOUGH_TEXTS)).round().astype(int)
        below = states[rows]
        above = _last_states(whole, texts, rows.tolist())
        answers = above @ without_mean_answer(weight, above).T
        answers = _plus(answers, None if known is None else known[rows])
        missing = _ENOUGH_TEXTS - len(states)
        if missing > 0 and self.examples is not None:
            extra = encoder.prepare(*varied(self.examples, missing))
            extra = encoder.with_contexts(extra, None)
            below = torch.cat([below, _last_states(encoder, extra)])
            above = torch.cat([above, _last_states(whole, extra)])
            encoder.forget(extra)
        logits = above @ weight.T
        weight = lens(below, logits - logits.mean(1, keepdim=True))
        return without_mean_answer(weight, states), answers, rows

    def _whole(self, encoder: Encoder) -> Encoder:
        """Return an encoder for the whole model's last states, starting from the cached ones."""
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


def class_prior(
    whole: Backbone,
    classes: Sequence[str],
    verbaliser: Verbaliser | None,
    examples: Examples | None = None,
    *,
    at_once: bool = True,
    leads: bool = False,
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
    few = examples is not None and len(examples) <= FEW_ROWS
    by_default = at_once and few and _is_at_hand(whole, classes)
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
