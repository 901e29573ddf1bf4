"""Scores under soft labels and of ordered classes, against enumeration of the labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora import Predictions, evaluate
from bayeslora.reporting.facts import calibration_of

CLASSES = ("low", "mid", "high", "top")
SOFT = ("accuracy", "nll", "brier", "ece", "cwece", "aurc", "overconfidence", "kl")


def rows(seed=0, size=60, num_classes=4):
    """Return probabilities and soft labels."""
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(num_classes), size)
    return probs, generator.multinomial(5, np.full(num_classes, 1 / num_classes), size) / 5


def scored(probs, shares, **options):
    made = Predictions(probs, CLASSES[: probs.shape[1]], soft_labels=shares)
    return evaluate(made, num_resamples=20, **options)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(12, 40))
def test_one_choice_per_row_gives_the_scores_of_labels(seed, num_classes, size):
    probs, _ = rows(seed, size, num_classes)
    labels = np.random.default_rng(seed).integers(0, num_classes, size)
    one_hot = np.eye(num_classes)[labels]
    soft = scored(probs, one_hot, ordered=True)
    hard = evaluate(
        Predictions(probs, CLASSES[:num_classes], labels), ordered=True, num_resamples=20
    )
    assert soft["kl"].value == pytest.approx(hard["nll"].value, abs=1e-12)
    for key in hard:
        assert soft[key].value == pytest.approx(hard[key].value, abs=1e-12), key


def test_scores_are_the_means_over_a_drawn_label():
    probs, shares = rows()
    scores = scored(probs, shares, ordered=True)
    places = np.arange(4)
    steps = probs.cumsum(1)[:, None, :-1] - (places[:, None] <= places[:-1])
    expected = {
        "nll": (shares * -np.log(probs)).sum(1),
        "brier": (shares * ((probs[:, None] - np.eye(4)) ** 2).sum(2)).sum(1),
        "rps": (shares * (steps**2).mean(2)).sum(1),
        "score_error": np.abs(probs @ places - shares @ places),
    }
    for key, values in expected.items():
        assert scores[key].value == pytest.approx(values.mean(), abs=1e-12)
    entropy = -np.where(shares > 0, shares * np.log(np.maximum(shares, 1e-300)), 0).sum(1)
    kl = expected["nll"] - entropy
    assert scores["kl"].value == pytest.approx(kl.mean(), abs=1e-12)


def test_copies_of_rows_with_one_choice_each_have_the_same_scores():
    probs, shares = rows(size=40)
    row = np.repeat(np.arange(40), 5)
    choices = np.concatenate([np.repeat(np.arange(4), k) for k in (5 * shares).round().astype(int)])
    copies = evaluate(Predictions(probs[row], CLASSES, choices), num_resamples=20)
    scores = scored(probs, shares)
    for key in (*SOFT[:-1], "mce", "brier_resolution", "brier_uncertainty"):
        assert scores[key].value == pytest.approx(
            copies[key].value, abs=1e-3 * (key == "aurc") + 1e-9
        ), key


def test_probabilities_that_are_the_shares_are_calibrated():
    _, shares = rows()
    scores = scored(shares, shares)
    assert calibration_of(scores).verdict == "few"
    assert scores["overconfidence"].value == pytest.approx(0, abs=1e-12)
    assert scores["ece"].value == pytest.approx(0, abs=1e-12)
    assert scores["kl"].value == pytest.approx(0, abs=1e-12)


def test_two_classes_make_rps_half_the_brier_score():
    probs, shares = rows(num_classes=2)
    scores = scored(probs, shares, ordered=True)
    assert scores["rps"].value == pytest.approx(scores["brier"].value / 2, abs=1e-12)


def test_scores_and_intervals_do_not_depend_on_the_order():
    probs, shares = rows()
    order = np.random.default_rng(1).permutation(len(probs))
    first, second = scored(probs, shares), scored(probs[order], shares[order])
    for key in SOFT:
        values = [(s[key].value, s[key].low, s[key].high) for s in (first, second)]
        np.testing.assert_allclose(*values, atol=1e-12)


def test_counts_of_a_file_are_shares_and_give_the_label(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prob_a,prob_b,label_a,label_b\n.5,.5,3,1\n.2,.8,,2\n.4,.6,,\n")
    made = Predictions.load(path)
    np.testing.assert_array_equal(made.soft_labels, [[0.75, 0.25], [0, 1], [np.nan] * 2])
    assert made.labels.tolist() == [0, 1, -1]
    for name in ("p.parquet", "p.jsonl", "q.csv"):
        made.save(tmp_path / name)
        again = Predictions.load(tmp_path / name)
        np.testing.assert_array_equal(again.soft_labels, made.soft_labels)
        assert again.labels.tolist() == [0, 1, -1]


def test_a_label_of_its_own_wins():
    shares = np.array([[0.9, 0.1], [np.nan] * 2])
    made = Predictions(np.full((2, 2), 0.5), ("a", "b"), np.array([1, 0]), soft_labels=shares)
    assert made.labels.tolist() == [1, 0]
    assert made.label_shares.tolist() == [[0.9, 0.1], [1, 0]]


def test_a_missing_class_is_refused(tmp_path):
    (tmp_path / "p.csv").write_text("prob_a,prob_b,label_a\n.5,.5,1\n")
    with refused("input", "label_b"):
        Predictions.load(tmp_path / "p.csv")


@pytest.mark.parametrize("counts", ["-1,2", "0,0", "x,1", "inf,1"])
def test_wrong_counts_are_refused(tmp_path, counts):
    path = tmp_path / "p.csv"
    path.write_text(f"prob_a,prob_b,label_a,label_b\n.5,.5,{counts}\n")
    with refused("input"):
        Predictions.load(path)
