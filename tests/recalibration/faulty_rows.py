"""Predictions with a known fault, for recalibrators to repair."""

import numpy as np

from bayeslora.predictions.record import Predictions


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def rows(count=300, classes=3, sharp=2.5, tilt=0.0, seed=0, ids="", **parts):
    """Return rows with labels from softmax(z) and probabilities softmax(sharp z + tilt c)."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.standard_normal((count, classes))
    labels = (softmax(logits).cumsum(1) > generator.random((count, 1))).argmax(1)
    stated = softmax(sharp * logits + tilt * np.arange(classes))
    named = {"ids": tuple(f"{ids}{row}" for row in range(count))} if ids else {}
    values = {"labels": labels, "name": "m"} | named | parts
    return Predictions(stated, tuple("abcdefghij"[:classes]), **values)


def nll(predictions):
    at_label = predictions.probs[np.arange(len(predictions)), predictions.labels]
    return float(-np.log(np.maximum(at_label, 1e-12)).mean())
