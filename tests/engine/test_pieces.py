"""Predictions in pieces equal those of all rows at once."""

import numpy as np
import pytest
import tiny

from bayeslora.classifier import BayesianClassifier


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    backbone = tiny.tiny_llama(tmp_path_factory.mktemp("llama"))
    clf = BayesianClassifier(backbone, "lora", "swag", progress=False)
    return clf.fit(tiny.toy_rows(48), epochs=2)


def rows(count):
    """Return rows; the first five are unlabelled."""
    made = tiny.toy_rows(count, seed=3)
    return [{**row, "label": None if place < 5 else row["label"]} for place, row in enumerate(made)]


def check_close(actual, expected):
    assert actual.ids == expected.ids
    assert np.array_equal(actual.labels, expected.labels)
    assert actual.metadata == expected.metadata
    for name in ("probs", "total", "aleatoric", "epistemic"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=1e-5)
    for name in actual.scores:
        np.testing.assert_allclose(actual.scores[name], expected.scores[name], atol=1e-4)


@pytest.mark.parametrize("posterior", [None, "laplace", "laplace_lora"])
def test_any_piece_size_gives_the_same_rows(fitted, monkeypatch, posterior):
    clf = fitted
    if posterior is not None:
        backbone = clf._backbone
        clf = BayesianClassifier(backbone, "lora", posterior, progress=False)
        clf.fit(tiny.toy_rows(48), epochs=1)
    whole = clf.predict(rows(23), keep=["text"])
    monkeypatch.setattr("bayeslora.data.examples.PIECE", 4)
    cut = clf.predict(rows(23), keep=["text"])
    check_close(cut, whole)
    assert list(cut.columns["text"]) == list(whole.columns["text"])


def test_a_piece_does_not_depend_on_what_came_before(fitted, monkeypatch):
    monkeypatch.setattr("bayeslora.data.examples.PIECE", 8)
    whole = fitted.predict(rows(20))
    last = fitted.predict(rows(20)[16:])
    assert np.array_equal(whole.probs[16:], last.probs)
    assert np.array_equal(whole.epistemic[16:], last.epistemic)
