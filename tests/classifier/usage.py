"""Classifiers that are fitted in a second, and helpers for tests with them."""

import numpy as np
from tiny import QUICK_VBLL, toy_rows

import bayeslora as bl

TEST = toy_rows(15, seed=8)


def new(backbone, adapter="polar:r=4", posterior=QUICK_VBLL, **options):
    options = {"device": "cpu", "progress": False, "max_length": 32} | options
    return bl.BayesianClassifier(backbone, adapter, posterior, **options)


def fitted(backbone, *args, **options):
    return new(backbone, *args, **options).fit(
        toy_rows(24), toy_rows(12, seed=1), epochs=1, batch_size=8
    )


def same(first, second):
    """Return whether two predictions are equal in every bit of every number."""
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("probs", "total", "aleatoric", "epistemic")
    )


def load(path, **options):
    return bl.BayesianClassifier.from_pretrained(path, device="cpu", progress=False, **options)


def from_transformers(source, posterior="laplace", **options):
    return bl.BayesianClassifier.from_transformers(
        source, posterior, device="cpu", progress=False, **options
    )
