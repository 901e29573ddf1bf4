"""More rows for a fitted model."""

import numpy as np
import pytest
import torch
from refusal import refused

from bayeslora import BayesianClassifier, Predictions
from bayeslora.engine.update import _advice
from bayeslora.metrics.rowwise import row_scores

WORDS = ["red", "green", "blue", "warm", "cold", "round"]


def rows(count, start=0, flip=False):
    """Return rows of which half the words are of class a."""
    return [
        {"text": f"{WORDS[n % 6]} {WORDS[n % 5]} {n}", "label": "ab"[(n % 6 < 3) ^ flip]}
        for n in range(start, start + count)
    ]


def fitted(backbone, adapter="polar:r=2", posterior="vbll:link=probit", data=None, **options):
    clf = BayesianClassifier(backbone, adapter, posterior, dtype="float32", progress=False)
    return clf.fit(data or rows(24), **({"epochs": 2, "batch_size": 8, "cv": 0} | options))


def nll(clf, test):
    return row_scores(clf.predict(test)).nll.mean()


def test_rows_that_contradict_the_model_win(backbone, tmp_path):
    clf, test = fitted(backbone), rows(60, 500, flip=True)
    before, weight = nll(clf, test), clf.network.head.mean_weight.clone()
    clf.update(rows(120, 100, flip=True))
    result = clf.record.results["update"]
    assert result["nll"] < result["nll_before"]
    assert result["rows"] == 120
    assert clf.record.num_train == 144
    assert nll(clf, test) < before
    assert not torch.equal(clf.network.head.mean_weight, weight)
    assert clf.held_out.labels.tolist() == [
        row["label"] == "b" for row in rows(120, 100, flip=True)
    ]
    assert row_scores(clf.held_out).nll.mean() == pytest.approx(result["nll"], rel=1e-6)
    clf.save_pretrained(tmp_path / "m")
    again = BayesianClassifier.from_pretrained(tmp_path / "m", backbone=backbone, progress=False)
    np.testing.assert_array_equal(again.predict(test).probs, clf.predict(test).probs)
    assert again.record == clf.record
    with refused("input", "fitted to", 10, 40):
        again.update(rows(40, 210, flip=True))


def test_texts_that_are_there_twice_are_held_out_together(backbone):
    clf = fitted(backbone)
    clf.update(2 * rows(60, 100, flip=True))
    assert clf.record.results["update"]["strength"] is not None
    np.testing.assert_allclose(*np.split(clf.held_out.probs, 2), rtol=1e-6)


def test_labels_by_chance_leave_the_model_nearly_as_it_is(backbone):
    clf = fitted(backbone)
    chance = np.random.default_rng(0).permutation([row["label"] for row in rows(60)]).tolist()
    new = [row | {"label": label} for row, label in zip(rows(60, 100), chance, strict=True)]
    clf.update(new)
    result = clf.record.results["update"]
    assert result["nll"] <= result["nll_before"]
    assert result["nll"] == pytest.approx(np.log(2), abs=0.05)
    assert row_scores(clf.held_out).nll.mean() == pytest.approx(result["nll"], rel=1e-6)


def test_no_network_is_changed(backbone):
    clf = fitted(backbone)
    network, probs = clf.network, clf.predict(rows(10)).probs
    clf.update(rows(60, 100, flip=True))
    assert clf.network is not network
    again = BayesianClassifier._around(network, backbone, {"progress": False})
    np.testing.assert_array_equal(again.predict(rows(10)).probs, probs)


@pytest.mark.parametrize(
    ("adapter", "posterior", "code"),
    [("lora:r=2", "mle", "no-update"), ("lora:r=2", "ensemble:num_members=2", "no-update")],
)
def test_other_posteriors_refuse(backbone, adapter, posterior, code):
    clf = fitted(backbone, adapter, posterior)
    with refused(code, posterior.partition(":")[0]):
        clf.update(rows(60, 100))


def test_wrong_rows_are_refused(backbone):
    clf = fitted(backbone)
    with refused("input", "19", "20"):
        clf.update([*rows(19, 100), *rows(19, 100)])
    with refused("unknown", "c"):
        clf.update([row | {"label": "c"} for row in rows(60, 100)])
    with refused("input", "fitted to", 24):
        clf.update(rows(24)[::-1])


def test_held_out_rows_are_the_new_ones(backbone, tmp_path):
    clf = fitted(backbone, data=rows(48), cv=2).update(rows(60, 100))
    clf.save_pretrained(tmp_path / "m")
    stored = Predictions.read(tmp_path / "m")
    assert len(stored) == 60
    new = clf.predict(rows(5, 500))
    assert stored.metadata["model_fingerprint"] == new.metadata["model_fingerprint"]


def of_losses(count, mean):
    """Return predictions with losses `mean` ± 0.2, of a standard error of 0.2 / √(count − 1)."""
    right = np.exp(-(mean + np.tile([-0.2, 0.2], count // 2)))
    return Predictions(np.c_[right, 1 - right], ("a", "b"), np.zeros(count, dtype=int))


def test_rows_harder_than_the_first_ask_for_a_full_fit(backbone):
    clf, chance = fitted(backbone), np.random.default_rng(0).integers(2, size=60)
    clf.network.held_out = of_losses(100, 0.4)
    clf.update([{"text": f"new {n}", "label": "ab"[label]} for n, label in enumerate(chance)])
    assert clf.record.results["update"]["advice"]


@pytest.mark.parametrize(
    ("mean", "count", "advised"), [(0.3, 100, 1), (0.35, 100, 0), (0.3, 10, 0)]
)
def test_advice_is_a_test_of_two_standard_errors(mean, count, advised):
    assert bool(_advice(of_losses(count, mean), of_losses(100, 0.4))) == advised


def test_without_rows_to_compare_there_is_no_advice():
    assert not _advice(None, of_losses(100, 0.4))
