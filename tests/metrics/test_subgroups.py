"""Scores of groups and classes: those of their rows alone, with separate intervals."""

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.intervals import wilson
from bayeslora.predictions.record import Predictions


def mixed(rows=300, **parts):
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.full(4, 0.5), size=rows)
    labels = (probs.cumsum(1) > generator.random((rows, 1))).argmax(1)
    columns = {
        "source": generator.choice(["web", "news", "only"], rows, p=[0.6, 0.39, 0.01]).tolist(),
        "even": [str(k % 2 == 0) for k in range(rows)],
    }
    return Predictions(probs, tuple("abcd"), labels, columns=columns, **parts)


def test_a_group_has_the_scores_of_its_rows_alone():
    whole = mixed(sets=np.random.default_rng(1).random((300, 4)) > 0.4)
    result = evaluate(whole, group_by=["source", "even"], num_resamples=300)
    assert list(result.groups) == ["source", "even"]
    assert list(result.groups["source"]) == ["news", "only", "web"]
    assert sum(part.n for part in result.groups["source"].values()) == 300
    for name in ("web", "news"):
        inside = np.array(whole.columns["source"]) == name
        alone = evaluate(whole.take(inside), num_resamples=300)
        part = result.groups["source"][name]
        for key, score in part.scores.items():
            assert score.value == pytest.approx(alone[key].value, abs=1e-12)
            assert score.low <= score.value <= score.high
        for key in ("nll", "brier", "set_size"):
            ours, theirs = part.scores[key], alone[key]
            # two quantiles of 300 resamples each
            assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.3)
        low, high = wilson(part.scores["accuracy"].value * part.n, part.n)
        assert part.scores["accuracy"].low == pytest.approx(float(low))
        assert part.scores["accuracy"].high == pytest.approx(float(high))


def test_clusters_within_groups_give_bootstrap_intervals():
    whole = mixed()
    twice = whole.take(np.repeat(np.arange(300), 2))
    columns = {**twice.columns, "twin": [str(k // 2) for k in range(600)]}
    twice = twice.replace(columns=columns)
    together = evaluate(twice, group_by="even", cluster_by="twin", num_resamples=300)
    once = evaluate(whole, group_by="even", num_resamples=300)
    for name in ("True", "False"):
        ours, theirs = (result.groups["even"][name].scores for result in (together, once))
        for key in ("nll", "accuracy"):
            assert ours[key].high - ours[key].low == pytest.approx(
                theirs[key].high - theirs[key].low, rel=0.3
            )


def test_classes_against_scikit_learn_and_netcal():
    from netcal.metrics import ECE

    whole = mixed()
    classes = evaluate(whole, by_class=True, num_resamples=50).classes
    recall = recall_score(whole.labels, whole.prediction, average=None)
    precision = precision_score(whole.labels, whole.prediction, average=None)
    for c, name in enumerate("abcd"):
        scores = classes[name].scores
        assert classes[name].n == (whole.labels == c).sum()
        assert scores["recall"].value == pytest.approx(recall[c], abs=1e-12)
        assert scores["precision"].value == pytest.approx(precision[c], abs=1e-12)
        assert scores["mean_probability"].value == pytest.approx(whole.probs[:, c].mean())
        netcal = ECE(bins=15).measure(whole.probs[:, c].copy(), (whole.labels == c).astype(int))
        assert scores["ece"].value == pytest.approx(netcal, abs=1e-12)
        assert all(score.low <= score.value <= score.high for score in scores.values())
    cwece = evaluate(whole, num_resamples=2)["cwece"].value
    assert np.mean([part.scores["ece"].value for part in classes.values()]) == pytest.approx(cwece)
