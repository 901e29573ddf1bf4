"""Laws that every recalibrator satisfies, whatever its formula."""

import json

import numpy as np
import pytest
from faulty_rows import nll, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora.options import as_mapping
from bayeslora.recalibration.recalibrate import RECALIBRATORS, build

METHODS = [*RECALIBRATORS, "histogram:bins=equal-width,smoothing=0", "isotonic:smoothing=0"]

# Optimisers stop at a mean gradient of 1e-9; the flattest direction of these rows has a
# curvature of about 1e-4, so probabilities agree to about 1e-5.
CLOSE = 1e-5


@pytest.mark.parametrize("method", [name for name in METHODS if "bayesian" not in name])
@given(
    seed=st.integers(0, 200),
    count=st.integers(1, 25),
    classes=st.integers(2, 5),
    sharp=st.sampled_from([0.1, 1.0, 5.0, 400.0]),
)
@settings(max_examples=12, deadline=None)
def test_rows_sum_to_one_whatever_was_stated(method, seed, count, classes, sharp):
    fitted = build(method).fit(rows(count, classes, sharp, seed=seed))
    probs = fitted.apply(rows(30, classes, sharp, seed=seed + 1)).probs
    assert np.isfinite(probs).all()
    assert (probs >= 0).all()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_does_not_matter(method):
    fit, apply = rows(80), rows(40, seed=1)
    order = np.random.default_rng(5).permutation(80)
    plain, shuffled = build(method).fit(fit), build(method).fit(fit.take(order))
    np.testing.assert_allclose(plain.apply(apply).probs, shuffled.apply(apply).probs, atol=CLOSE)
    turned = plain.apply(apply.take(np.arange(40)[::-1])).probs[::-1]
    np.testing.assert_allclose(turned, plain.apply(apply).probs, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_classes_does_not_matter(method):
    fit, apply = rows(80, tilt=1.0), rows(40, tilt=1.0, seed=1)
    to = np.array([2, 0, 1])  # column c moves to place to[c]

    def moved(predictions):
        return predictions.replace(
            probs=predictions.probs[:, np.argsort(to)],
            classes=tuple(predictions.classes[c] for c in np.argsort(to)),
            labels=to[predictions.labels],
        )

    plain = build(method).fit(fit).apply(apply).probs
    other = build(method).fit(moved(fit)).apply(moved(apply)).probs
    np.testing.assert_allclose(other[:, to], plain, atol=CLOSE)


@pytest.mark.parametrize("method", METHODS)
def test_one_row_and_one_class_are_survived(method):
    few = rows(1)
    alone = rows(50).replace(labels=np.zeros(50, dtype=int))
    for fit in (few, alone):
        probs = build(method).fit(fit).apply(rows(30, seed=1)).probs
        assert np.isfinite(probs).all()


@pytest.mark.parametrize("method", [name for name in RECALIBRATORS if "temp" not in name])
def test_an_absent_class_is_not_ruled_out(method):
    fit = rows(200)
    present = fit.take(fit.labels != 2)
    assert build(method).fit(present).apply(rows(100, seed=1)).probs[:, 2].max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_certainty_and_impossibility_are_survived(method):
    stated = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])
    fit = rows(5).replace(probs=stated, labels=np.array([0, 1, 1, 2, 0]))
    probs = build(method).fit(fit).apply(fit).probs
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-12)


# The prior shift changes no calibration.
@pytest.mark.parametrize("method", [name for name in RECALIBRATORS if name != "prior"])
def test_other_rows_get_better_probabilities(method):
    fit, apply = rows(2000, sharp=3), rows(2000, sharp=3, seed=1)
    assert nll(build(method).fit(fit).apply(apply)) < nll(apply) - 0.2


@pytest.mark.parametrize("method", RECALIBRATORS)
def test_calibrated_rows_stay_about_what_they_are(method):
    fit, apply = rows(4000, sharp=1), rows(4000, sharp=1, seed=1)
    # A free parameter costs about 1 / 2N in NLL, and the largest map here has about 60 of them.
    assert nll(build(method).fit(fit).apply(apply)) < nll(apply) + 60 / 8000


@pytest.mark.parametrize("method", RECALIBRATORS)
def test_unlabelled_rows_are_left_out_of_the_fit_and_mapped_all_the_same(method):
    fit = rows(60)
    labels = np.where(np.arange(60) % 2, fit.labels, -1)
    partly = fit.replace(labels=labels)
    fitted = build(method).fit(partly)
    assert fitted.num_rows == 30
    other = build(method).fit(fit.take(labels >= 0))
    np.testing.assert_array_equal(fitted.apply(partly).probs, other.apply(partly).probs)


@pytest.mark.parametrize("method", [name for name in RECALIBRATORS if "bayesian" not in name])
def test_what_becomes_of_the_other_columns(method):
    predictions = rows(
        20,
        total=np.ones(20),
        epistemic=np.ones(20),
        scores={"mine": np.arange(20.0)},
        metadata={"link": "mc", "conformal": "lac"},
        sets=np.ones((20, 3), dtype=bool),
    )
    fitted = build(method).fit(predictions)
    new = fitted.apply(predictions, "new")
    np.testing.assert_array_equal(new.total, new.uncertainty("entropy"))
    assert new.epistemic is None
    assert new.sets is None
    np.testing.assert_array_equal(new.scores["mine"], np.arange(20.0))
    numbers = {key: repr(value) for key, value in fitted.report().items()}
    assert numbers
    chosen = as_mapping(RECALIBRATORS[fitted.name]())
    chosen = {f"recalibration_{key}": json.dumps(value) for key, value in chosen.items()}
    del chosen["recalibration_name"]
    assert new.metadata == {
        "link": "mc",
        "recalibration": fitted.name,
        **chosen,
        **numbers,
        "recalibration_rows": "20",
    }
    assert (new.name, fitted.apply(predictions).name) == ("new", "m")
    json.dumps(fitted.report(), allow_nan=False)


@pytest.mark.parametrize("method", RECALIBRATORS)
def test_refusals(method):
    with refused("input", "labels"):
        build(method).fit(rows(5).replace(labels=None))
    with refused("not-fitted"):
        build(method).apply(rows(5))
    with refused("input", "['a', 'b']", "['a', 'b', 'c']"):
        build(method).fit(rows(5, classes=2)).apply(rows(5))
