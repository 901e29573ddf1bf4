"""Findings and advice on data with known truth, and the shares behind them."""

import re

import numpy as np
import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.rowwise import row_scores
from bayeslora.predictions.collection import gather
from bayeslora.reporting.assess import Answers, assess, pair
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.sentences import advice, findings

MARKS = str.maketrans({"\u2068": None, "\u2069": None, "\N{NO-BREAK SPACE}": " "})


def words(items, ood=None, num_resamples=100):
    """Return the sentences by key, without the marks around names."""
    options = {"num_bins": 15, "num_resamples": num_resamples, "seed": 0}
    methods = assess(gather(items, ood), options)
    names = {name for method in methods for name in method.scores.ood}
    facts = Facts(methods, pair(methods, options), {name: name for name in sorted(names)})
    results = [finding for finding in (advice(facts), *findings(facts)) if finding is not None]
    return {
        finding.key: [sentence.translate(MARKS) for sentence in finding.sentences]
        for finding in results
    }


def numbers(sentence):
    return [float(match) for match in re.findall(r"\d+(?:\.\d+)?", sentence)]


@pytest.mark.parametrize(("sharpness", "way"), [(3.0, "over"), (0.4, "under")])
@pytest.mark.parametrize("seed", [0, 1])
def test_bias_is_found_with_its_size(make, sharpness, way, seed):
    predictions = make("m", sharpness=sharpness, rows=1000, seed=seed)
    sentences = words([predictions, make("fine", rows=1000, seed=seed)])
    [sentence] = sentences["biased"]
    assert sentence.startswith("m: ")
    assert ("+" in sentence.split(" points")[0]) == (way == "over")
    gap = predictions.confidence - (predictions.prediction == predictions.labels)
    assert numbers(sentence)[0] == pytest.approx(100 * abs(gap.mean()), abs=0.06)
    assert any("recalibrate" in sentence for sentence in sentences["advice"])


def test_exact_probabilities_are_rarely_accused_and_never_acquitted(make):
    # Each page makes two tests at 5 % (gap and bins), so at most 10 % of pages accuse; more than 6
    # of 20 pages then has a probability of 0.2 %.
    accused = 0
    for seed in range(20):
        sentences = words(make("m", rows=150, seed=seed), num_resamples=60)
        text = " ".join(sentence for group in sentences.values() for sentence in group)
        assert not re.search(r"\b(well|is|are) calibrated", text)
        accused += not {"few", "good"} & sentences.keys()
    assert accused <= 6


def test_no_better_than_the_most_common_class(make):
    worse, better = (words(make("m", signal=s, sharpness=10.0, rows=200)) for s in (0.05, 2.0))
    assert "not shown" in worse["accuracy"][0]
    assert "not shown" not in better["accuracy"][0]


def test_the_leader_is_named_with_those_that_may_be_as_good(methods):
    lowest = words(methods)["ranking"][0]
    assert "temperature" in lowest
    assert "polar-vbll" in lowest
    assert "mle" not in lowest


def test_out_of_distribution_inputs_are_limits_and_have_steps(make):
    blind = make("m", rows=100, labelled=False, seed=5)
    seen = make("m", signal=0.1, rows=300, labelled=False, seed=6)
    sentences = words(make("m"), {"same": blind, "odd": seen})
    for name in ("same", "odd"):
        assert sum(name in sentence for sentence in sentences["limits"]) == 1
        assert sum(name in sentence for sentence in sentences["advice"]) == 1
    unnoticed = [sentence for sentence in sentences["advice"] if "not shown to notice" in sentence]
    assert len(unnoticed) == 1
    assert "same" in unnoticed[0]


def one_hot(make, correct, labels):
    """Return certain predictions: correct where `correct`, the next class elsewhere."""
    labels = np.asarray(labels)
    guess = np.where(correct, labels, (labels + 1) % 4)
    return make("m", rows=len(labels), labels=labels, probs=np.eye(4)[guess])


def test_shares_are_those_of_the_rows(make):
    labels = np.zeros(100, dtype=int)
    correct = np.ones(100, dtype=bool)
    correct[:7] = False
    predictions = one_hot(make, correct, labels)
    sure, answers = evaluate(predictions, num_resamples=2).sure, Answers(row_scores(predictions))
    assert (sure.count, sure.confidence, sure.accuracy) == (100, 1.0, 0.93)
    # Wilson interval of 7 of 100, from the closed form
    ends = 1 - sure.accuracy_high, 1 - sure.accuracy_low
    assert ends == pytest.approx((0.0343, 0.1375), abs=1e-4)
    assert answers.surest() is None, "all rows are equally sure"
    assert answers.weakest_class() is None, "one class alone has rows"
