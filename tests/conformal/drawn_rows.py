"""Predictions with labels drawn from them, calibrated or overconfident."""

import numpy as np

from bayeslora.predictions.record import Predictions


def drawn(count=200, classes=4, seed=0, sharp=1.0, **parts):
    """Return rows whose labels follow probabilities less sharp than the stated ones."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.standard_normal((count, classes))
    true, stated = (np.exp(k * logits) for k in (1.0, sharp))
    true, stated = (p / p.sum(1, keepdims=True) for p in (true, stated))
    labels = (true.cumsum(1) > generator.random((count, 1))).argmax(1)
    values = {"labels": labels, "name": "m"} | parts
    return Predictions(stated, tuple("abcdefghij"[:classes]), **values)


def covered(predictions):
    return predictions.sets[np.arange(len(predictions)), predictions.labels]
