"""Fits to soft labels."""

import json

import numpy as np
import pytest
import torch
from refusal import refused

from bayeslora import BayesianClassifier, Predictions
from bayeslora.links import at_label, best_scale
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.last_layer.vbll.bounds import jensen

WORDS = ["red", "green", "blue", "warm", "cold", "round"]
TEXTS = [f"{WORDS[n % 6]} {WORDS[n % 5]} {n}" for n in range(24)]
LABELS = ["ab"[n % 6 < 3] for n in range(24)]


def rows(certain=1.0):
    """Return rows whose annotators agree in a share of the cases."""
    return [
        {"text": text, f"label_{label}": certain, f"label_{'ab'[label == 'a']}": 1 - certain}
        for text, label in zip(TEXTS, LABELS, strict=True)
    ]


def fitted(backbone, data, adapter="polar:r=2", posterior="vbll:link=probit", **options):
    clf = BayesianClassifier(backbone, adapter, posterior, dtype="float32", progress=False)
    length = {} if adapter in {"none", "amt"} else {"epochs": 3, "batch_size": 8}
    return clf.fit(data, **(length | options))


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [("polar:r=2", "vbll:link=probit"), ("lora:r=2", "mle"), ("none", "map"), ("none", "vbll")],
)
def test_one_choice_per_row_is_a_label(backbone, adapter, posterior):
    columns = [dict(sorted(row.items())) for row in rows()]
    soft = fitted(backbone, columns, adapter, posterior)
    hard = fitted(backbone, (TEXTS, LABELS), adapter, posterior)
    assert soft.classes == hard.classes
    # Float32 sums of products in place of a chosen entry, over three epochs.
    np.testing.assert_allclose(soft.predict(TEXTS).probs, hard.predict(TEXTS).probs, atol=2e-4)


def test_a_fit_learns_the_shares(backbone):
    """With equal shares in every row nothing but these can be learnt."""
    columns = [{"text": text, "label_a": 3, "label_b": 1} for text in TEXTS]
    probs = fitted(backbone, columns, "none", "map").predict(TEXTS).probs
    np.testing.assert_allclose(probs[:, 0], 0.75, atol=0.05)


def test_held_out_predictions_keep_the_shares(backbone, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(0.75)))
    clf = fitted(backbone, tmp_path / "rows.jsonl", cv=3)
    held_out = clf.held_out
    assert held_out.soft_labels.shape == held_out.probs.shape
    assert set(held_out.soft_labels.ravel().tolist()) == {0.25, 0.75}
    held_out.save(tmp_path / "p.parquet")
    assert Predictions.load(tmp_path / "p.parquet").soft_labels is not None


def test_predictions_keep_the_shares_of_a_file(backbone, tmp_path):
    clf = fitted(backbone, (TEXTS, LABELS), "none", "map")
    clf.predict(rows(0.75)).save(tmp_path / "p.parquet")
    assert set(Predictions.load(tmp_path / "p.parquet").soft_labels.ravel().tolist()) == {
        0.25,
        0.75,
    }


def test_soft_labels_of_a_single_class_are_none(backbone):
    with refused("unknown", "label"):
        fitted(backbone, [{"text": text, "label_a": 1} for text in TEXTS])


def test_bound_and_scale_are_means_over_the_shares():
    generator = torch.Generator().manual_seed(0)
    mean, variance, shares = (torch.rand(20, 3, generator=generator).double() for _ in range(3))
    shares = shares / shares.sum(1, keepdim=True)
    each = [torch.full((20,), label) for label in range(3)]
    expected = sum(shares[:, k] * jensen(mean, variance, each[k]) for k in range(3))
    torch.testing.assert_close(jensen(mean, variance, shares), expected)
    torch.testing.assert_close(at_label(mean, shares), (mean * shares).sum(1))
    # Shares that are the softmax of the logits over 2 have the scale ½, up to its prior.
    logits = 6 * torch.randn(4000, 3, generator=generator).double()
    answers = [(GaussianLogits.point(logits), (logits / 2).softmax(1))]
    assert best_scale(answers, num_samples=0)[0] == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize(
    ("adapter", "posterior"), [("polar:r=2", "laplace"), ("polar:r=2", "gvbll"), ("amt", "vbll")]
)
def test_methods_that_need_labels_refuse(backbone, adapter, posterior):
    with refused("soft-labels", posterior):
        fitted(backbone, rows(0.75), adapter, posterior)


@pytest.mark.parametrize("cell", [-1, "x", "nan"])
def test_wrong_counts_are_refused(backbone, cell):
    with refused("input", "label_a"):
        fitted(backbone, [*rows(0.75), {"text": "red", "label_a": cell, "label_b": 1}])


def test_a_row_without_any_choice_is_refused(backbone):
    with refused("input", "row 25"):
        fitted(backbone, [*rows(0.75), {"text": "red", "label_a": 0, "label_b": None}])


def test_validation_rows_have_the_same_classes(backbone):
    other = [{"text": f"x {n}", "label_b": 1, "label_a": 0} for n in range(4)]
    with refused("input", "a, b"):
        fitted(backbone, [dict(sorted(row.items())) for row in rows(0.75)], validation=other)


def test_new_classes_may_have_soft_labels_where_the_posterior_takes_them(backbone):
    clf = fitted(backbone, (TEXTS, LABELS), "none", "map")
    again = clf.adapt(rows(0.75))
    assert again.predict(TEXTS).probs.max() < 0.95
    with refused("soft-labels", "laplace"):
        clf.adapt(rows(0.75), posterior="laplace")
