"""Rows with different numbers of options: the record, files, scores, and later steps."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from bayeslora import compare, conformal_sets, evaluate, recalibrate
from bayeslora.metrics.rowwise import brier_parts, classwise_bins
from bayeslora.predictions.record import Predictions

SEEDS = st.integers(0, 2**32 - 1)


def ragged(rows=80, classes=5, seed=0, *, least=2, name="ragged", ids="row"):
    """Return predictions of questions with `least` to `classes` options."""
    generator = np.random.default_rng(seed)
    available = np.arange(classes) < generator.integers(least, classes + 1, rows)[:, None]
    available[0] = True
    available[-1] = np.arange(classes) < least
    logits = np.where(available, 2 * generator.normal(size=(rows, classes)), -np.inf)
    probs = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    labels = [generator.choice(classes, p=row) for row in probs]
    return Predictions(
        probs,
        "ABCDEFGHIJ"[:classes],
        labels=labels,
        ids=[f"{ids}-{seed}-{k}" for k in range(rows)],
        name=name,
        available=available,
    )


def padded(predictions, classes=7):
    """Return the same rows with additional classes that no row has."""
    more = classes - predictions.num_classes
    return predictions.replace(
        probs=np.pad(predictions.probs, ((0, 0), (0, more))),
        classes="ABCDEFGHIJ"[:classes],
        available=np.pad(
            np.ones(predictions.probs.shape, bool)
            if predictions.available is None
            else predictions.available,
            ((0, 0), (0, more)),
        ),
    )


def values(predictions):
    scores = evaluate(predictions, num_resamples=20)
    return {key: score.value for key, score in scores.items()}


def test_every_class_of_every_row_is_none():
    predictions = Predictions([[0.5, 0.5]], "AB", available=[[True, True]])
    assert predictions.available is None
    assert predictions.num_options.tolist() == [2]
    assert ragged().take([0]).available is None
    assert ragged().take([0, 79]).num_options.tolist() == [5, 2]


def test_a_label_that_is_no_option_of_its_row_is_named():
    probs, available = [[0.2, 0.3, 0.5], [0.4, 0.6, 0.0]], [[True] * 3, [True, True, False]]
    with refused("row", "row 2", "'C'"):
        Predictions(probs, "ABC", [0, 2], available=available)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_files_have_null_where_there_is_no_option(tmp_path, suffix):
    predictions = ragged()
    path = tmp_path / f"p.{suffix}"
    predictions.save(path)
    again = Predictions.load(path)
    np.testing.assert_array_equal(again.probs, predictions.probs)
    np.testing.assert_array_equal(again.available, predictions.available)
    if suffix == "jsonl":
        last = json.loads(path.read_text().splitlines()[-1])
        assert last["prob_C"] is None


def test_foreign_files_with_nulls(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("label,prob_a,prob_b,prob_c\na,0.5,0.5,\nc,0.2,0.3,0.5\n")
    predictions = Predictions.load(path)
    assert predictions.available.tolist() == [[True, True, False], [True, True, True]]
    path.write_text("label,logit_a,logit_b,logit_c\na,0,0,\nc,1,1,1\n")
    np.testing.assert_allclose(Predictions.load(path).probs, [[0.5, 0.5, 0], [1 / 3] * 3])
    path.write_text("label,prob_a,prob_b,prob_c\nc,0.5,0.5,\n")
    with refused("input", "row 2"):
        Predictions.load(path)


@pytest.mark.parametrize("cells", ["1,,", "0.5,0.5,nan", ",,", "0.5,0.4,"])
def test_what_is_no_question_is_refused(tmp_path, cells):
    path = tmp_path / "p.csv"
    path.write_text(f"prob_a,prob_b,prob_c\n0.2,0.3,0.5\n{cells}\n")
    with refused("input", "row 3"):
        Predictions.load(path)


@given(SEEDS, st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_classes_that_no_row_has_change_no_score(seed, least):
    predictions = ragged(40, 5, seed, least=least)
    assert values(padded(predictions)) == pytest.approx(values(predictions), abs=1e-12)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_order_of_options_changes_no_score_of_the_answer(seed):
    predictions = ragged(40, 5, seed)
    order = np.random.default_rng(seed).permutation(5)
    turned = predictions.replace(
        probs=predictions.probs[:, order],
        labels=np.argsort(order)[predictions.labels],
        available=predictions.available[:, order],
    )
    assert values(turned) == pytest.approx(values(predictions), abs=1e-12)


def test_class_wise_scores_are_over_the_rows_that_have_the_class():
    predictions = ragged(300, 4, 3)
    probs, labels, has = predictions.probs, predictions.labels, predictions.available
    errors, reliability, uncertainty = [], 0.0, 0.0
    for c in range(4):
        stated, truth = probs[has[:, c], c], labels[has[:, c]] == c
        place = np.minimum((stated * 15).astype(int), 14)
        sizes = np.bincount(place, minlength=15)
        gaps = np.bincount(place, truth - stated, 15)
        errors.append(np.abs(gaps).sum() / len(stated))
        reliability += (gaps**2 / np.maximum(sizes, 1)).sum() / 300
        uncertainty += truth.mean() * (1 - truth.mean()) * len(stated) / 300
    sums = classwise_bins(probs, labels, available=has)()
    assert sums.by_class == pytest.approx(errors)
    assert float(sums.cwece) == pytest.approx(np.mean(errors))
    parts = brier_parts(sums, np.array(0.5))
    assert float(parts.reliability) == pytest.approx(reliability)
    assert float(parts.uncertainty) == pytest.approx(uncertainty)
    scores = evaluate(predictions, num_resamples=20)
    of_parts = scores["brier_reliability"].value - scores["brier_resolution"].value
    assert scores["brier"].value == pytest.approx(of_parts + scores["brier_uncertainty"].value)


def test_chance_is_the_mean_of_one_by_the_number_of_options():
    predictions = ragged()
    chance = evaluate(predictions, num_resamples=20).chance_accuracy
    assert chance == pytest.approx((1 / predictions.available.sum(1)).mean())
    plain = Predictions([[0.2, 0.3, 0.5]], "abc", labels=[0])
    assert evaluate(plain, num_resamples=20).chance_accuracy == pytest.approx(1 / 3)


@pytest.mark.parametrize("method", ["lac", "aps", "raps", "lac:classwise=true"])
def test_sets_hold_no_option_that_is_not_there(method):
    fit, apply = ragged(60, seed=1), ragged(60, seed=2)
    result = conformal_sets(fit, apply, alpha=0.01, method=method)
    assert not (result.sets & ~result.predictions.available).any()
    assert result.sizes.max() > 2
    wide = conformal_sets(padded(fit), padded(apply), alpha=0.01, method=method)
    np.testing.assert_array_equal(wide.sets[:, :5], result.sets)


def test_temperature_is_that_of_the_options_that_are_there():
    fit, apply = ragged(300, seed=1), ragged(50, seed=2)
    sharp = fit.probs**2.5
    fit = fit.with_probs(sharp / sharp.sum(1, keepdims=True))
    result = recalibrate(fit, apply)
    with np.errstate(divide="ignore"):
        logits = np.log(fit.probs)

    def nll(log_temperature):
        scaled = logits / np.exp(log_temperature)
        chosen = scaled[np.arange(len(fit)), fit.labels]
        return (logsumexp(scaled, axis=1) - chosen).mean()

    best = np.exp(minimize_scalar(nll, bounds=(-3, 3), method="bounded").x)
    assert result.recalibrator.temperature == pytest.approx(best, rel=1e-4)
    assert not result.predictions.probs[~apply.available].any()
    again = recalibrate(padded(fit), padded(apply))
    np.testing.assert_allclose(again.predictions.probs[:, :5], result.predictions.probs)


def test_comparisons_order_the_options_alike():
    first = ragged(name="first")
    turned = first.replace(
        name="turned",
        probs=first.probs[:, ::-1],
        classes="EDCBA",
        labels=4 - first.labels,
        available=first.available[:, ::-1],
    )
    rows = compare([first, turned], num_resamples=20).rows
    assert {row.differences["nll"].value for row in rows} == {0.0}
