"""The sentences claim no more than the intervals allow."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.rowwise import row_scores
from bayeslora.metrics.scores import Bin, Score, Scores
from bayeslora.predictions.collection import Method, Source, gather
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Answers, Assessed, assess, pair
from bayeslora.reporting.facts import Facts, standing
from bayeslora.reporting.sentences import advice, findings, verdict_of

ROWS = Predictions([[0.8, 0.2]] * 10, ("a", "b"), [0] * 8 + [1] * 2)
"""Rows behind explicit scores: eight of ten correct, all equally confident."""
ON = Bin(0.5, 1.0, 100, 0.8, 0.8, 0.7, 0.9)
OFF = Bin(0.5, 1.0, 100, 0.8, 0.4, 0.3, 0.5)


def assessed(
    label, *, nll=(0.5, 0.4, 0.6), bias=(0.0, -0.02, 0.02), bins=(ON,), p=0.9, sure=None, **notes
):
    """Return a method with explicit scores, and notes in its metadata."""
    scores = {
        "accuracy": Score(0.8, 0.75, 0.85),
        "nll": Score(*nll),
        "ece": Score(0.03, 0.02, 0.05),
        "mean_confidence": Score(0.8 + bias[0], 0.7, 0.9),
        "overconfidence": Score(*bias),
    }
    tests = {"bins": bins, "sure": sure, "ece_if_calibrated": 0.021, "calibration_p": p}
    made = Scores(label, "", 600, 600, num_classes=4, num_bins=15, scores=scores, **tests)
    shift = 0.001 * ord(label[0])  # no copy of another method
    rows = ROWS.with_probs(ROWS.probs + np.array([-shift, shift])).replace(metadata=notes)
    return Assessed(Method(label, label, Source(rows), {}), made)


MARKS = str.maketrans({"\u2068": None, "\u2069": None, "\N{NO-BREAK SPACE}": " "})


def words(methods, comparison=None, sets=None):
    """Return the sentences by key, without the marks around names."""
    comparisons = comparison if isinstance(comparison, dict) else {"nll": comparison}
    facts = Facts(methods, comparisons if comparison else {}, sets or {})
    results = [finding for finding in (advice(facts), *findings(facts)) if finding is not None]
    return {finding.key: " ".join(finding.sentences).translate(MARKS) for finding in results}


def words_on(items, ood=None, num_resamples=100):
    """Return the sentences on predictions by key."""
    options = {"num_resamples": num_resamples}
    methods = assess(gather(items, ood), options)
    return words(methods, pair(methods, options), {name: name for name in ood or {}})


def test_overconfidence_is_stated_with_its_interval():
    sentences = words([assessed("mle", bias=(0.083, 0.061, 0.109)), assessed("fine")])
    assert "mle: mean confidence minus accuracy is +8.3 points [+6.1, +10.9]" in sentences["biased"]
    assert "recalibrate" in sentences["advice"]


@pytest.mark.parametrize("bias", [(0.05, -0.001, 0.1), (-0.05, -0.1, 0.0), (0.0, 0.0, 0.0)])
def test_an_interval_that_holds_zero_is_no_sign_of_bias(bias):
    sentences = words([assessed("m", bias=bias)])
    assert not {"biased", "slight"} & set(sentences)
    sentence = sentences["good" if bias == (0.0, 0.0, 0.0) else "few"]
    assert "0 of 1 bin" in sentence
    assert "0.021" in sentence


def test_errors_that_cancel_on_average_are_found():
    sentences = words([assessed("m", bins=(OFF, ON, OFF))])
    assert "2 of 3 bins" in sentences["uneven"]
    assert "good" not in sentences


def test_a_lead_inside_the_interval_is_called_chance():
    sentences = words([assessed("a", nll=(0.40, 0.35, 0.45)), assessed("b", nll=(0.44, 0.4, 0.5))])
    assert "a has the lowest NLL, 0.400 [0.350, 0.450]" in sentences["ranking"]
    assert "b may be as good (intervals overlap)" in sentences["ranking"]
    assert "a and b" in sentences["advice"]


def compared(low, high):
    zero = dict.fromkeys(("accuracy", "nll", "brier", "ece"), Score(0, 0, 0))
    other = {**zero, "nll": Score(0.04, low, high)}
    rows = (ComparisonRow("a", zero, zero), ComparisonRow("b", zero, other))
    return Comparison("nll", "a", 600, 15, 1000, 0, rows)


def leads(sentences):
    """Return whether the method of lowest NLL is reported to lead beyond chance."""
    lowest = sentences["ranking"].split("highest accuracy")[0]
    return "may be as good" not in lowest


@pytest.mark.parametrize(("low", "high", "clear"), [(0.01, 0.07, True), (-0.01, 0.09, False)])
def test_paired_differences_decide_where_there_are_any(low, high, clear):
    pairs = [assessed("a", nll=(0.40, 0.35, 0.45)), assessed("b", nll=(0.44, 0.4, 0.5))]
    assert leads(words(pairs, compared(low, high))) is clear
    assert leads(words(pairs)) is False


def test_a_lead_needs_the_corrected_p_as_well():
    pairs = [assessed("a", nll=(0.40, 0.35, 0.45)), assessed("b", nll=(0.44, 0.4, 0.5))]
    comparison = compared(0.01, 0.07)
    for p, clear in ((0.04, True), (0.06, False)):
        rows = (comparison.rows[0], dataclasses.replace(comparison.rows[1], p_holm={"nll": p}))
        assert leads(words(pairs, dataclasses.replace(comparison, rows=rows))) is clear


def marks(key, *scores):
    methods = [
        SimpleNamespace(label=str(place), fits=(), scores={key: Score(*score)})
        for place, score in enumerate(scores)
    ]
    best = standing(key, methods, lambda by_key: by_key[key])
    return best.marks([method.label for method in methods])


def test_best_values_are_marked_with_all_that_overlap():
    scores = [(0.9, 0.88, 0.92), (0.87, 0.85, 0.89), (0.5, 0.4, 0.6)]
    assert marks("accuracy", *scores) == [True, True, False]
    assert marks("nll", *scores) == [False, False, True]
    assert marks("accuracy", *scores[:1]) == [False]
    assert marks("accuracy", *scores[:2]) == [False, False]
    biases = [(-0.01, -0.02, 0.0), (0.2, 0.1, 0.3), (-0.015, -0.1, 0.1)]
    assert marks("overconfidence", *biases) == [True, False, True]


SURE_BIN = Bin(0.9, 1.0, 225, 0.971, 0.938, 0.897, 0.963)


def test_the_range_where_people_automate_is_judged():
    # It states 2.9 % errors at a confidence of 0.9 or more, and makes 6.2 %.
    method = assessed("m", sure=SURE_BIN)
    sentences = words([method])
    assert "as they are" not in sentences["advice"]
    assert "states 2.9 % errors and makes 6.2 % [3.7, 10.3]" in sentences["advice"]
    assert "bayeslora recalibrate" in sentences["advice"]
    point = assessed("m", sure=SURE_BIN, calibrated="no")
    assert "bayeslora calibrate" in words([point])["advice"]
    assert "sure" in sentences
    assert "2.9 %" in sentences["limits"]
    assert verdict_of(method.scores)[1] == "open"


@pytest.mark.parametrize("bins", [(OFF, OFF, OFF), (ON,)])
@pytest.mark.parametrize("fault", [{"sure": SURE_BIN}, {"bias": (0.1, 0.08, 0.12)}])
@pytest.mark.parametrize("notes", [{"recalibration": "temperature"}, {"calibrated": "yes"}])
def test_after_recalibration_nobody_is_told_to_recalibrate(bins, fault, notes):
    advised = words([assessed("m", bins=bins, **notes, **fault)])["advice"]
    assert "bayeslora recalibrate" not in advised
    assert "risk-coverage curve" in advised


def test_a_copy_with_prediction_sets_is_no_alternative():
    method = assessed("m")
    copy = dataclasses.replace(
        method, method=dataclasses.replace(method.method, name="sets", label="sets")
    )
    facts = Facts([method, copy], {}, {})
    assert facts.choice.equal == ()
    assert "Choose" not in words([method, copy])["advice"]


def test_equal_evidence_gets_the_same_sentence():
    first_fit, other = assessed("a", bins=(OFF, ON, OFF)), assessed("b", bins=(OFF, ON, OFF))
    sentences = words([first_fit, other])["uneven"]
    first, _, second = sentences.partition("b: ")
    assert first.removeprefix("a: ").strip() == second


@pytest.mark.parametrize(("p", "clear"), [(0.042, True), (0.37, False)])
def test_what_may_be_chance_is_no_clear_sign(p, clear):
    """The reason for a recommendation claims no more than the finding on the same method."""
    choice = Facts([assessed("a", p=p), assessed("b", p=0.5)]).choice
    assert len(choice.equal) == 1
    assert ("clear" in choice.reasons[-1]) == clear


@pytest.mark.parametrize(("sharpness", "way"), [(3.0, "over"), (0.4, "under")])
@pytest.mark.parametrize("seed", [0, 1])
def test_bias_is_found_with_its_size(make, sharpness, way, seed):
    predictions = make("m", sharpness=sharpness, rows=1000, seed=seed)
    sentences = words_on([predictions, make("fine", rows=1000, seed=seed)])
    sentence = sentences["biased"]
    assert sentence.startswith("m: ")
    assert ("+" in sentence.split(" points")[0]) == (way == "over")
    gap = predictions.confidence - (predictions.prediction == predictions.labels)
    stated = float(re.search(r"\d+\.\d+", sentence)[0])
    assert stated == pytest.approx(100 * abs(gap.mean()), abs=0.06)
    assert "recalibrate" in sentences["advice"]


def test_exact_probabilities_are_rarely_accused_and_never_acquitted(make):
    # Each page makes two tests at 5 % (gap and bins), so at most 10 % of pages accuse; more than 6
    # of 20 pages then has a probability of 0.2 %.
    accused = 0
    for seed in range(20):
        sentences = words_on(make("m", rows=150, seed=seed), num_resamples=60)
        assert not re.search(r"\b(well|is|are) calibrated", " ".join(sentences.values()))
        accused += not {"few", "good"} & sentences.keys()
    assert accused <= 6


def test_no_better_than_the_most_common_class(make):
    worse, better = (words_on(make("m", signal=s, sharpness=10.0, rows=200)) for s in (0.05, 2.0))
    assert "not shown" in worse["accuracy"]
    assert "not shown" not in better["accuracy"]


def test_the_leader_is_named_with_those_that_may_be_as_good(methods):
    lowest = words_on(methods)["ranking"].split("row by row")[0]
    assert [name in lowest for name in ("temperature", "polar-vbll", "mle")] == [True, True, False]


def test_out_of_distribution_inputs_are_limits_and_have_steps(make):
    blind = make("m", rows=100, labelled=False, seed=5)
    seen = make("m", signal=0.1, rows=300, labelled=False, seed=6)
    sentences = words_on(make("m"), {"same": blind, "odd": seen})
    for name in ("same", "odd"):
        assert sentences["limits"].count(f"On {name} ") == 1
        assert sentences["advice"].count(f"inputs like {name}") == 1
    assert sentences["advice"].count("not shown to notice") == 1
    assert "inputs like same by other means" in sentences["advice"]


def test_shares_are_those_of_the_rows():
    labels = np.repeat([1, 0], [7, 93])
    predictions = Predictions([[1.0, 0.0]] * 100, ("a", "b"), labels, name="m")
    sure, answers = evaluate(predictions, num_resamples=2).sure, Answers(row_scores(predictions))
    assert (sure.count, sure.confidence, sure.accuracy) == (100, 1.0, 0.93)
    # Wilson interval of 7 of 100, from the closed form
    ends = 1 - sure.accuracy_high, 1 - sure.accuracy_low
    assert ends == pytest.approx((0.0343, 0.1375), abs=1e-4)
    assert answers.surest() is None, "all rows are equally sure"
