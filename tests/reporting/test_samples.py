"""Two samples of one model: what changed, and no preference."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from bayeslora import Predictions
from bayeslora.metrics.differences import holm
from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.collection import gather
from bayeslora.reporting.assess import assess, pair
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.report import report


def sample(name, seed, sharp=1.0, model="ours", rows=300):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (rows, 3))
    true, stated = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, sharp * logits))
    labels = (generator.random((rows, 1)) > true.cumsum(1)).sum(1).clip(max=2)
    ids = tuple(f"{name}-{row}" for row in range(rows))
    return Predictions(
        stated, tuple("abc"), labels, ids, name=name, metadata={"model_fingerprint": model}
    )


def facts_of(*samples):
    fits = assess(gather(list(samples)), {"num_resamples": 20})
    return Facts(fits, pair(fits, {"num_resamples": 20}), {}, fits=fits)


def test_changes_are_welch_tests_with_holms_correction():
    march, april = sample("march", 0), sample("april", 1, sharp=2.5)
    facts = facts_of(march, april)
    assert facts.are_samples
    right = [part.prediction == part.labels for part in (april, march)]
    gap = [part.confidence - hits for part, hits in zip((april, march), right, strict=True)]
    loss = [-np.log(part.probs[np.arange(300), part.labels]) for part in (april, march)]
    stated = [part.confidence for part in (april, march)]
    tests = [
        ttest_ind(*map(np.asarray, values), equal_var=False).pvalue
        for values in ([r.astype(float) for r in right], stated, gap, loss)
    ]
    assert [change.p for change in facts.changes] == pytest.approx(holm(tests).tolist())
    scores = [evaluate(part, num_resamples=20) for part in (april, march)]
    for change in facts.changes:
        expected = scores[0][change.key].value - scores[1][change.key].value
        assert change.value == pytest.approx(expected, abs=1e-9)
    assert facts.changes[2].p < 1e-4  # overconfidence


def test_a_report_prefers_no_sample(tmp_path):
    report(
        [sample("march", 0), sample("april", 1, sharp=2.5)], out=tmp_path / "r", num_resamples=20
    )
    text = (tmp_path / "r" / "report.md").read_text()
    assert "Samples of one model" in text
    for word in ("Prefer", "Recommended", "Choose", "Best predictions"):
        assert word not in text


@pytest.mark.parametrize(
    "other", [sample("april", 1, model="theirs"), sample("march", 0).replace(name="again")]
)
def test_other_models_and_equal_rows_are_compared(other):
    assert not facts_of(sample("march", 0), other).are_samples


def test_chance_alone_rarely_changes_anything():
    """With Holm's correction at most 5 % of the pairs; 13 of 100 are rarer than one in 1,000."""
    alarms = sum(
        any(
            change.p < 0.05
            for change in facts_of(sample("a", seed), sample("b", 500 + seed)).changes
        )
        for seed in range(100)
    )
    assert alarms <= 12
