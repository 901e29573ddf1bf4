"""What a fit has to beat: cheaper models of the same rows, scored on the same held-out rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bayeslora.engine.data import LabelledExamples
from bayeslora.engine.ensemble import Fold
from bayeslora.engine.training.starts import LinearProbes
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.logit_scale import best_scale

logger = logging.getLogger(__name__)

_ADVICE = {
    "linear_probe": (
        "a linear probe of the backbone",
        "adapter 'none' (--quick) trains no more than that",
    ),
    "bag_of_words": (
        "a bag of words",
        "another backbone, or a larger max_length, may read these texts better",
    ),
}
# TF-IDF with logistic regression stays within seconds.
_MOST_ROWS = 4096
_ABSENT = math.log(1e-6)


def baselines(
    train: LabelledExamples, folds: Sequence[Fold], probes: LinearProbes, own: float
) -> dict[str, float]:
    """Return the NLL of held-out rows under cheaper models; warn if one is better than the fit.

    `linear_probe` is a last layer on features of the backbone without an adapter, `bag_of_words` a
    logistic regression on TF-IDF. Both are fitted to the rows of each part and have the scale of
    lowest NLL, as the fit has.

    Args:
        train: Training rows.
        folds: Parts of the rows, with the rows that they hold out.
        probes: Logits of the linear probes.
        own: NLL of the fit, in nats per row.
    """
    labels = train[1]
    models = {
        "linear_probe": [
            probes.answers[fold.name][fold.unseen] if fold.name in probes.answers else None
            for fold in folds
        ],
        "bag_of_words": [bag_of_words(train, fold) for fold in folds],
    }
    scores: dict[str, float] = {}
    for name, answers in models.items():
        known = [
            (GaussianLogits.point(logits), labels[fold.unseen])
            for logits, fold in zip(answers, folds, strict=True)
            if logits is not None
        ]
        if not known:
            continue
        scores[name] = best_scale(known, num_samples=0)[2]
    if better := {name: score for name, score in scores.items() if score < own}:
        logger.warning(
            "on held-out rows, the NLL of the fit, %.3f, is above that of %s; %s",
            own,
            " and ".join(f"{_ADVICE[name][0]}, {score:.3f}" for name, score in better.items()),
            "; ".join(_ADVICE[name][1] for name in better),
        )
    return scores


def bag_of_words(train: LabelledExamples, fold: Fold) -> Tensor | None:
    """Return logits [n, C] of the held-out rows of a fold by logistic regression on TF-IDF.

    None for images, questions, several tasks, texts without a word, and a single class.

    Args:
        train: Training rows.
        fold: Its rows, of which at most 4,096 are used, and those that it holds out.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    examples, labels = train
    if examples.choices is not None or examples.images or examples.among is not None:
        return None
    pairs = examples.pairs or [""] * len(examples)
    texts = np.array([f"{text} {pair}" for text, pair in zip(examples.texts, pairs, strict=True)])
    seen = fold.rows
    seen = seen[np.unique(np.linspace(0, len(seen) - 1, _MOST_ROWS).round().astype(int))]
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        LogisticRegression(C=10.0, max_iter=200),
    )
    try:
        model.fit(texts[seen], labels[seen])
    except ValueError:  # no word, or one class
        return None
    known = torch.from_numpy(model.predict_log_proba(texts[fold.unseen])).double()
    logits = torch.full((len(known), int(labels.max()) + 1), _ABSENT, dtype=torch.float64)
    logits[:, torch.from_numpy(model.classes_)] = known
    return logits
