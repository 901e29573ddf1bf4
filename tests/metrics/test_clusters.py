"""Clustered rows: drawn together, wider intervals, invalid columns."""

import numpy as np
import pytest
from refusal import refused

from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.record import Predictions


def twins(pairs=150, name="m", power=1.0):
    """Return every row twice, under the same twin's name."""
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(3), size=pairs)
    labels = (probs.cumsum(1) > generator.random((pairs, 1))).argmax(1)
    probs = probs**power / (probs**power).sum(1, keepdims=True)
    column = [f"t{k}" for k in range(pairs)] * 2
    sets = np.tile(probs > 0.2, (2, 1))
    return Predictions(
        np.tile(probs, (2, 1)),
        ("a", "b", "c"),
        np.tile(labels, 2),
        name=name,
        columns={"twin": column},
        sets=sets,
        total=np.tile(probs[:, 0], 2),
    )


def width(score):
    return score.high - score.low


def test_twins_count_as_one():
    whole = twins()
    together = evaluate(whole, cluster_by="twin", num_resamples=400)
    once = evaluate(whole.take(np.arange(150)), num_resamples=400)
    apart = evaluate(whole, num_resamples=400)
    for key in ("accuracy", "nll", "brier", "overconfidence"):
        assert together[key].value == pytest.approx(once[key].value, abs=1e-12)
        # a quantile of 400 resamples errs by about 10 %
        assert width(together[key]) == pytest.approx(width(once[key]), rel=0.25)
        assert width(apart[key]) < 0.85 * width(together[key])
    assert width(together["coverage"]) > 1.15 * width(apart["coverage"])
    assert "clusters of equal 'twin'" in together.intervals["method"]


def test_comparisons_draw_and_exchange_clusters():
    pair = [twins(), twins(name="other", power=1.3)]
    together = compare(pair, cluster_by="twin", num_resamples=400)
    apart = compare(pair, num_resamples=400)
    assert together.cluster_by == "twin"
    difference = [comparison.rows[1].differences["nll"] for comparison in (together, apart)]
    assert width(difference[0]) > 1.15 * width(difference[1])


def test_wrong_columns_are_refused():
    whole = twins(3)
    with refused("unknown", "'twins'", "'twin'"):
        evaluate(whole, cluster_by="twins")
    holes = whole.replace(columns={"twin": ["x", None, "y", "x", None, "y"]})
    with refused("input", "row 2", "'twin'", "(2"):
        evaluate(holes, cluster_by="twin")
