"""How the best posterior is chosen."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from tiny import CLASSES, toy_rows
from usage import TEST, from_transformers, load, same

from bayeslora.data.splits import stratified_folds
from bayeslora.posteriors.registry import COMPARED

TRAIN, HELD = toy_rows(60), toy_rows(40, seed=1)


def own_logits(foreign, rows):
    """Return the classifier's own logits and the labels of rows."""
    clf = from_transformers(foreign, "mle")
    return np.log(clf.predict(rows).probs), np.array([CLASSES.index(r["label"]) for r in rows])


def nll(logits, labels, inverse=1.0):
    scaled = inverse * logits
    scaled = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
    return -scaled[np.arange(len(labels)), labels]


def row_of(race, name):
    return next(row for row in race.rows if row.name == name)


def cross_fitted(logits, labels, folds):
    """Return the mean NLL with a temperature for each part of the examples from the others."""
    losses = np.empty(len(labels))
    fold = stratified_folds(labels, folds, 0)
    for part in range(folds):
        rest, rows = fold != part, fold == part
        best = minimize_scalar(
            lambda power, rest=rest: nll(logits[rest], labels[rest], np.exp(power)).mean(),
            bounds=(-4, 4),
            method="bounded",
            options={"xatol": 1e-9},
        )
        losses[rows] = nll(logits[rows], labels[rows], np.exp(best.x))
    return losses.mean()


def test_best_has_the_lowest_cross_validated_nll(foreign, tmp_path):
    clf = from_transformers(foreign, "mle").calibrate(TRAIN, posterior="best")
    race = clf.side_by_side
    assert race.n == 60
    assert race.reference == race.rows[0].name == clf.posterior.name
    assert {row.name for row in race.rows} == {*COMPARED}
    logits, labels = own_logits(foreign, TRAIN)
    expected = cross_fitted(logits, labels, 5)
    assert row_of(race, "temperature").scores["nll"].value == pytest.approx(expected, abs=1e-5)
    # the winner is then fitted to all examples, as if it had been named
    named = from_transformers(foreign, "mle").calibrate(TRAIN, posterior=clf.posterior)
    assert same(named.predict(TEST), clf.predict(TEST))
    clf.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.record.results["comparison"]["chosen"] == race.reference
    assert loaded.side_by_side is None
    assert "cross-validation over 60" in (tmp_path / "model" / "README.md").read_text("utf-8")
    again = from_transformers(foreign, "mle").calibrate(TRAIN, posterior="best")
    assert again.side_by_side == race


def test_a_result_worse_than_before_is_said(foreign, caplog):
    narrow = "vbll:prior_scale=0.02,polish_mean=refit"
    clf = from_transformers(foreign, "mle").calibrate(TRAIN, HELD, posterior=narrow)
    assert "is above that before" in caplog.text
    assert clf.side_by_side is None
