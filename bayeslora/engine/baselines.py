"""What a fit has to beat: cheaper models of the same rows, scored on the same held-out rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bayeslora.engine.data import LabelledExamples
from bayeslora.engine.ensemble import Part
from bayeslora.engine.training.frozen_head import FrozenHeads
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.logit_scale import best_scale
from bayeslora.tasks.examples import Examples

logger = logging.getLogger(__name__)

_ADVICE = {
    "frozen_head": (
        "a last layer on the frozen backbone",
        "fit that in seconds with adapter 'none' (--quick)",
    ),
    "bag_of_words": ("a bag of words", "another backbone may read these texts better"),
}


def baselines(
    train: LabelledExamples, parts: Sequence[Part], frozen: FrozenHeads, own: float
) -> dict[str, float]:
    """Return the NLL of held-out rows under cheaper models; warn if one is better than the fit.

    `frozen_head` is the best last layer on features of the backbone without an adapter,
    `bag_of_words` a logistic regression on TF-IDF. Both are fitted to the same rows as the networks
    and have the scale of lowest NLL, as the fit has.

    Args:
        train: Training rows.
        parts: Parts of the rows, with the rows that they hold out.
        frozen: Answers of the last layers on frozen features.
        own: NLL of the fit.
    """
    examples, labels = train
    scores: dict[str, float] = {}
    for name, answers in (
        ("frozen_head", [frozen.answers.get(part.name) for part in parts]),
        ("bag_of_words", bags_of_words(examples, labels, parts)),
    ):
        known = [
            (_point(logits[part.unseen]), labels[part.unseen])
            for logits, part in zip(answers, parts, strict=True)
            if logits is not None
        ]
        if known:
            scores[name] = best_scale(known, num_samples=0)[2]
    for name, score in scores.items():
        if score < own:
            words, advice = _ADVICE[name]
            logger.warning(
                "on held-out rows, the NLL of the fit, %.3f, is above that of %s, %.3f; %s",
                *(own, words, score, advice),
            )
    return scores


def _point(logits: Tensor) -> GaussianLogits:
    return GaussianLogits(logits, torch.zeros_like(logits))


def bags_of_words(examples: Examples, labels: Tensor, parts: Sequence[Part]) -> list[Tensor | None]:
    """Return logits [N, C] of all rows by logistic regression on TF-IDF, for each part.

    None for rows that are not texts, for several tasks, and for texts without a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if examples.choices is not None or examples.images or examples.among is not None:
        return [None] * len(parts)
    pairs = examples.pairs or [""] * len(examples)
    texts = [f"{text} {pair}" for text, pair in zip(examples.texts, pairs, strict=True)]
    try:
        counts = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit_transform(texts)
    except ValueError:  # no word
        return [None] * len(parts)
    num_classes = int(labels.max()) + 1
    answers: list[Tensor | None] = []
    for part in parts:
        seen = labels[part.rows].numpy()
        classes = np.unique(seen)
        if len(classes) < 2:
            answers.append(None)
            continue
        model = LogisticRegression(C=10.0, max_iter=200).fit(counts[part.rows], seen)
        logits = torch.full((len(labels), num_classes), math.log(1e-6), dtype=torch.float64)
        logits[:, classes] = torch.from_numpy(model.predict_log_proba(counts)).double()
        answers.append(logits)
    return answers
