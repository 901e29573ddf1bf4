"""Predictions of a simulated model, whose probabilities are too sharp by a known factor."""

import numpy as np

from bayeslora.predictions.record import Predictions

CLASSES = ("a", "b", "c")


def simulated(rows=600, seed=0, prefix="row-", sharp=1.0, **more):
    """Return labelled predictions; with `sharp` 1 they are calibrated."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2.2, (rows, len(CLASSES)))
    true, stated = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, sharp * logits))
    labels = (generator.random((rows, 1)) > true.cumsum(1)).sum(1).clip(max=2)
    ids = tuple(f"{prefix}{row}" for row in range(rows)) if prefix else None
    defaults = {"metadata": {"model_fingerprint": "ours"}}
    return Predictions(stated, CLASSES, labels, ids, **{**defaults, **more})
