"""The words: never more than the intervals allow."""

import dataclasses

import pytest

from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.scores import Bin, OODScores, Score, Scores
from bayeslora.predictions.collection import Method, Source
from bayeslora.reporting.assess import (
    Assessed,
    Point,
    best_or_tied,
    misses_more_than_chance,
    pair,
)
from bayeslora.reporting.detectors import MOST_FLAGGED, detector_notes, is_usable
from bayeslora.reporting.findings import advice, detection
from bayeslora.reporting.lay_summary import _alarm
from bayeslora.reporting.ranking import facts_of
from bayeslora.reporting.summary import summarise

ON = Bin(0.5, 1.0, 100, 0.8, 0.8, 0.7, 0.9)
OFF = Bin(0.5, 1.0, 100, 0.8, 0.4, 0.3, 0.5)


def detected(auroc, low, high, fpr95=0.1):
    triple = {
        "auroc": Score(auroc, low, high),
        "aupr": Score(0.5, 0.4, 0.6),
        "fpr95": Score(fpr95, 0.0, 1.0),
    }
    return OODScores(
        n_in=600, n_out=400, score="epistemic", **triple, by_score={"epistemic": triple}
    )


def beaten():
    result = detected(0.9, 0.88, 0.92)
    scores = dict.fromkeys(("epistemic", "max_probability"), result.by_score["epistemic"])
    return dataclasses.replace(result, better="max_probability", by_score=scores)


def assessed(label, *, nll=(0.5, 0.4, 0.6), bias=(0.0, -0.02, 0.02), bins=(ON,), ood=None):
    """Return a method whose scores are written out."""
    scores = {
        "accuracy": Score(0.8, 0.75, 0.85),
        "nll": Score(*nll),
        "brier": Score(0.3, 0.25, 0.35),
        "ece": Score(0.03, 0.02, 0.05),
        "aurc": Score(0.1, 0.08, 0.12),
        "mean_confidence": Score(0.8 + bias[0], 0.7, 0.9),
        "overconfidence": Score(*bias),
    }
    made = Scores(
        name=label,
        file="",
        n=600,
        n_labelled=600,
        num_classes=4,
        num_bins=15,
        scores=scores,
        bins=bins,
        ood=ood or {},
        ece_if_calibrated=0.021,
    )
    return Assessed(Method(label, label, Source(None), {}), made)


def words(methods, comparison=None, sets=None):
    """Return the lead and the sentences by topic, without the marks around names."""
    summary = summarise(facts_of(methods, comparison, sets or {}))

    def plain(text):
        text = text.replace("\N{NO-BREAK SPACE}", " ")
        return text.replace("\u2068", "").replace("\u2069", "")

    topics = {plain(one.topic): " ".join(map(plain, one.sentences)) for one in summary.findings}
    return plain(summary.lead), topics


def test_overconfidence_is_stated_with_its_interval():
    _, topics = words([assessed("mle", bias=(0.083, 0.061, 0.109))])
    assert topics["Overconfident"] == (
        "mle, by 8.3 points [6.1, 10.9]: 88.3 % sure on average, right on 80.0 % of 600 rows."
    )
    assert "recalibrate" in topics["What follows from the scores"]


def test_underconfidence_is_stated_without_minus_signs():
    _, topics = words([assessed("t", bias=(-0.05, -0.07, -0.03))])
    assert topics["Underconfident"].startswith("t, by 5.0 points [3.0, 7.0]: 75.0 % sure")
    assert "Overconfident" not in topics


@pytest.mark.parametrize("bias", [(0.05, -0.001, 0.1), (-0.05, -0.1, 0.0), (0.0, 0.0, 0.0)])
def test_an_interval_that_holds_zero_is_no_sign_of_bias(bias):
    lead, topics = words([assessed("m", bias=bias)])
    assert not {"Overconfident", "Underconfident"} & set(topics)
    found = topics["No sign of miscalibration at this number of rows"]
    assert "which includes 0" in found
    assert "0 of 1 bin with rows miss the diagonal (about 0.1 would by chance)" in found
    assert "calibrated perfectly, it would read about 0.021" in found
    assert "shows no bias between confidence and accuracy" in lead


def test_errors_that_cancel_on_average_are_found():
    _, topics = words([assessed("m", bins=(OFF, ON, OFF))])
    assert "2 of 3 bins with rows miss" in topics["Miscalibrated, though not on average"]
    assert "No sign of miscalibration at this number of rows" not in topics


def test_a_lead_inside_the_interval_is_called_chance():
    lead, topics = words(
        [assessed("a", nll=(0.40, 0.35, 0.45)), assessed("b", nll=(0.44, 0.4, 0.5))]
    )
    assert "a has the lowest NLL, 0.400 [0.350, 0.450]; its lead over b may be chance" in lead
    assert "a, and b" not in lead
    assert "Choose among a and b" in topics["What follows from the scores"]


def test_a_lead_outside_every_interval_is_stated():
    lead, topics = words([assessed("a", nll=(0.2, 0.1, 0.3)), assessed("b", nll=(0.6, 0.5, 0.7))])
    assert "a has the lowest NLL, 0.200 [0.100, 0.300]; no other interval overlaps it" in lead
    assert "Prefer a:" in topics["What follows from the scores"]


def compared(low, high):
    zero = dict.fromkeys(("accuracy", "nll", "brier", "ece"), Score(0, 0, 0))
    other = {**zero, "nll": Score(0.04, low, high)}
    rows = (ComparisonRow("a", zero, zero), ComparisonRow("b", zero, other))
    return Comparison("nll", "a", 600, 15, 1000, 0, rows)


@pytest.mark.parametrize(
    ("low", "high", "clause"),
    [
        (0.01, 0.07, "row by row, every other method is worse by more than chance explains"),
        (-0.01, 0.09, "its lead over b may be chance (compared row by row)"),
    ],
)
def test_paired_differences_decide_where_there_are_any(low, high, clause):
    pairs = [assessed("a", nll=(0.40, 0.35, 0.45)), assessed("b", nll=(0.44, 0.4, 0.5))]
    lead, _ = words(pairs, compared(low, high))
    assert clause in lead
    assert "the same 600 rows" in lead


def test_an_exact_tie_is_no_lead():
    lead, topics = words([assessed("a"), assessed("b")])
    assert "a has the lowest NLL, 0.500 [0.400, 0.600]; b has exactly the same." in lead
    assert "its lead" not in lead + " ".join(topics.values())
    three = [assessed("a"), assessed("b"), assessed("c", nll=(0.55, 0.45, 0.65))]
    lead, _ = words(three)
    assert "b has exactly the same; its lead over c may be chance" in lead
    lead, _ = words([*three[:2], assessed("c", nll=(0.9, 0.8, 1.0))])
    assert "b has exactly the same; no other interval overlaps it" in lead


def test_a_lead_needs_the_corrected_p_as_well():
    pairs = [assessed("a", nll=(0.40, 0.35, 0.45)), assessed("b", nll=(0.44, 0.4, 0.5))]
    found = compared(0.01, 0.07)
    for p, clause in ((0.04, "every other method is worse"), (0.06, "its lead over b may be")):
        rows = (found.rows[0], dataclasses.replace(found.rows[1], p_holm={"nll": p}))
        lead, _ = words(pairs, dataclasses.replace(found, rows=rows))
        assert clause in lead


def pooled(label, nll, fits):
    return dataclasses.replace(assessed(label, nll=nll), fits=tuple(fits))


def test_intervals_over_seeds_alone_make_no_lead_over_other_rows():
    fits = [assessed("a (seed 0)", nll=(0.40, 0.30, 0.50))]
    close = pooled("a", (0.40, 0.39, 0.41), fits)
    lead, _ = words([close, assessed("b", nll=(0.46, 0.44, 0.48))])
    assert "a has the lowest NLL, 0.400 [0.390, 0.410]; its lead over b may be chance" in lead


def test_biases_of_seeds_are_counted():
    sure = {"bias": (0.05, 0.01, 0.09)}
    fits = [assessed("a (seed 0)", **sure), assessed("a (seed 1)")]
    lead, topics = words([pooled("a", (0.5, 0.4, 0.6), fits)])
    assert "scores are means over 2 seeds" in lead
    assert "Of the 2 fits of a, 1 is overconfident on average and none underconfident." in lead
    assert topics["Overconfident"].startswith("a (seed 0), by 5.0 points")
    assert "probabilities of a at face value" in topics["What follows from the scores"]


def test_methods_on_other_rows_are_said_to_be():
    lead, _ = words([assessed("a"), assessed("b")])
    assert "not known to be the same ones" in lead


def test_no_better_than_a_coin():
    method = assessed("m", ood={"near": detected(0.52, 0.47, 0.57)})
    lead, topics = words([method], sets={"near": "near"})
    assert "no better than by a coin on near" in lead
    assert "every interval reaches 0.5" in topics["Unfamiliar rows: near"]
    assert (
        "Do not count on these uncertainties to flag rows like near"
        in topics["What follows from the scores"]
    )


def test_detection_states_sizes_and_false_alarms():
    method = assessed("m", ood={"far": detected(0.93, 0.91, 0.95, fpr95=0.42)})
    lead, topics = words([method], sets={"far": "far"})
    assert "with an AUROC of 0.930 [0.910, 0.950] on far (epistemic uncertainty)" in lead
    found = topics["Unfamiliar rows: far"]
    assert "(out of 600 and 400)" in found
    assert "in 93 of 100 draws" in found
    assert "flags 42.0 % of the familiar ones" in found
    assert "42.0 % of familiar rows" in topics["What follows from the scores"]


@pytest.mark.parametrize(
    ("result", "is_advised"),
    [
        (detected(0.9, 0.88, 0.92, fpr95=MOST_FLAGGED), True),
        (detected(0.616, 0.6, 0.63, fpr95=0.993), False),
        (dataclasses.replace(detected(0.9, 0.88, 0.92), doubt="negligible"), False),
        (beaten(), False),
    ],
)
def test_no_threshold_is_advised_that_flags_half_the_familiar_rows_or_by_a_useless_score(
    result, is_advised
):
    method = assessed("m", ood={"far": result})
    assert ("pass on those" in _alarm(method, "far", "far")[0]) == is_advised
    facts = facts_of([method], None, {"far": "far"})
    advised = [one for one in advice(facts) if one.kind == "advice"]
    assert any("far" in sentence for sentence in advised[0].sentences) != is_advised
    found = detection(facts, "far")
    assert (found.kind == "warning") == (not is_usable(result))
    assert len(detector_notes(result)) == (not is_usable(result))


def test_a_score_that_separates_is_named_where_the_judged_one_is_blind():
    blind = detected(0.49, 0.45, 0.53)
    simple = detected(0.99, 0.98, 1.0).by_score["epistemic"]
    scores = {**blind.by_score, "max_probability": simple}
    result = dataclasses.replace(blind, better="max_probability", by_score=scores)
    method = assessed("m", ood={"far": result})
    lead, topics = words([method], sets={"far": "far"})
    told = [lead, topics["What follows from the scores"], _alarm(method, "far", "far")[0]]
    assert all("0.990" in text and "coin" not in text for text in told)


def test_some_methods_blind_to_a_set_are_named():
    pairs = [
        assessed("a", ood={"far": detected(0.9, 0.88, 0.92)}),
        assessed("b", ood={"far": detected(0.5, 0.5, 0.5)}),
    ]
    _, topics = words(pairs, sets={"far": "far"})
    assert "Not shown to beat a coin, interval reaching 0.5: b." in topics["Unfamiliar rows: far"]


def test_without_labels_nothing_is_said_about_calibration():
    method = assessed("m")
    bare = dataclasses.replace(
        method.scores, scores={"mean_confidence": Score(0.8, 0.7, 0.9)}, bins=(), n_labelled=0
    )
    lead, topics = words([Assessed(method.method, bare)])
    assert "No row has a label" in lead
    assert topics == {}


def test_best_values_are_marked_with_all_that_overlap():
    scores = [Score(0.9, 0.88, 0.92), Score(0.87, 0.85, 0.89), Score(0.5, 0.4, 0.6), None]
    assert best_or_tied("accuracy", scores) == [True, True, False, False]
    assert best_or_tied("nll", scores) == [False, False, True, False]
    assert best_or_tied("accuracy", scores[:1]) == [False]
    assert best_or_tied("accuracy", scores[:2]) == [False, False]
    biases = [Score(-0.01, -0.02, 0.0), Score(0.2, 0.1, 0.3), Score(-0.015, -0.1, 0.1)]
    assert best_or_tied("overconfidence", biases) == [True, False, True]


def test_misses_are_compared_with_chance():
    on = Point(0.5, 1.0, 10, 0.8, 0.8, 0.7, 0.9)
    off = dataclasses.replace(on, accuracy=0.4, accuracy_low=0.3, accuracy_high=0.5)
    # P(X >= 1) of Binomial(10, 0.05) is 0.40, P(X >= 2) is 0.09, P(X >= 3) is 0.01
    assert not misses_more_than_chance([off] + [on] * 9)
    assert not misses_more_than_chance([off] * 2 + [on] * 8)
    assert misses_more_than_chance([off] * 3 + [on] * 7)
    assert not misses_more_than_chance([])


def test_one_method_has_no_pair():
    assert pair([assessed("m")], num_bins=15, num_resamples=10, seed=0) is None
