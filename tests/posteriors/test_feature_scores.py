"""Feature-space scores against scikit-learn and direct formulas, and their invariances."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from refusal import refused
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from bayeslora import VBLL
from bayeslora.links import link_probabilities
from bayeslora.posteriors import fitted_scores
from bayeslora.posteriors.feature_scores import FEATURE_SCORES
from bayeslora.posteriors.fitted_scores import (
    FeatureScores,
    Mahalanobis,
    NearestRows,
    Unfamiliarity,
    ledoit_wolf,
)
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.processes import row_slices
from bayeslora.testing.last_layer import toy

F64 = torch.float64


def around_means(features, labels):
    return features - torch.stack([features[labels == c].mean(0) for c in range(3)])[labels]


# Fewer rows than features, as many, and more.
SHAPES = [(12, 20), (20, 20), (90, 6)]


@pytest.mark.parametrize(("rows", "size"), SHAPES)
def test_mahalanobis_is_that_of_scikit_learns_ledoit_wolf(rows, size):
    features, labels = toy(rows=rows, size=size)
    other = toy(rows=15, size=size, seed=3)[0]
    distances = Mahalanobis.fitted(features, labels)(other)
    tied = LedoitWolf(assume_centered=True).fit(around_means(features, labels).numpy())
    means = [features[labels == c].mean(0) for c in range(3)]
    expected = np.min([tied.mahalanobis((other - mean).numpy()) for mean in means], axis=0)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-8, atol=1e-8)
    centred = around_means(features, labels)
    shrinkage = ledoit_wolf(centred, torch.linalg.eigvalsh(centred.T @ centred / rows))
    assert shrinkage == pytest.approx(tied.shrinkage_, abs=1e-12)


@pytest.mark.parametrize("rows", [4, 60])
def test_knn_is_that_of_scikit_learn(rows, monkeypatch):
    monkeypatch.setattr(fitted_scores, "row_slices", partial(row_slices, most=90))  # in parts
    features, _ = toy(rows=rows, size=6)
    other = toy(rows=25, size=6, seed=3)[0]
    k = min(fitted_scores.NEIGHBOUR, rows)
    unit = [part / part.norm(dim=1, keepdim=True) for part in (features, other)]
    model = NearestNeighbors(n_neighbors=k).fit(unit[0].numpy())
    expected = model.kneighbors(unit[1].numpy())[0][:, -1]
    score = NearestRows.fitted(features, seed=0)
    # Rows are stored in single precision.
    np.testing.assert_allclose(score(other).numpy(), expected, atol=1e-6)
    assert score.extra_config() == {"rows": rows, "neighbour": k}


def test_knn_keeps_a_seeded_choice_of_many_rows(monkeypatch):
    monkeypatch.setattr(fitted_scores, "MAX_ROWS", 20)
    features, _ = toy(rows=50, size=6)
    first, again, other = (NearestRows.fitted(features, seed=seed) for seed in (1, 1, 2))
    assert first.rows.shape == (20, 6)
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)
    unit = (features / features.norm(dim=1, keepdim=True)).float()
    assert all((unit == row).all(1).any() for row in first.rows)


def all_fitted(rows=60, size=6):
    features, labels = toy(rows=rows, size=size)
    head = build_head(VBLL(prior_scale=2.0), size, 3)
    head.fit(Features(features, labels))
    middle = toy(rows=rows, size=size + 1, seed=9)[0]
    names = tuple(FEATURE_SCORES)
    return head, FeatureScores.fitted(names, features.float(), labels, middle=middle)


@pytest.mark.parametrize(("rows", "size"), [(60, 6), (9, 20)])
def test_saved_and_loaded_is_bit_equal(rows, size):
    head, scores = all_fitted(rows, size)
    extra = scores.extra_config()
    assert list(extra) == list(FEATURE_SCORES)
    loaded = FeatureScores.empty(extra, size)
    loaded.load_state_dict(scores.state_dict())
    other = toy(rows=10, size=size, seed=3)[0].float()
    rows = other, toy(rows=10, size=size + 1, seed=4)[0]
    expected, actual = scores.of_features(*rows), loaded.of_features(*rows)
    assert list(expected) == ["mahalanobis", "knn", "middle_mahalanobis"]
    assert all(torch.equal(actual[name], values) for name, values in expected.items())
    assert all(values.dtype == F64 and values.shape == (10,) for values in actual.values())
    logits = head.predict(Features(other))
    seen = 1 - link_probabilities(logits).probs.max(1).values, expected
    assert torch.equal(
        loaded.of_probabilities(*seen)["unfamiliarity"],
        scores.of_probabilities(*seen)["unfamiliarity"],
    )
    assert loaded.extra_config() == extra


@pytest.mark.parametrize(("rows", "size"), [(60, 6), (9, 20)])
def test_the_distance_in_the_middle_is_that_of_one_gaussian(rows, size):
    """Ledoit and Wolf's covariance of all rows, by scikit-learn."""
    features, labels = toy(rows=rows, size=4)
    middle, other = (toy(rows=count, size=size, seed=5)[0] for count in (rows, 10))
    scores = FeatureScores.fitted(["middle_mahalanobis"], features, labels, middle=middle)
    assert list(scores.parts) == ["middle_mahalanobis"]
    reference = LedoitWolf().fit(middle.numpy())
    actual = scores.of_features(toy(rows=10, size=4)[0], other)["middle_mahalanobis"]
    np.testing.assert_allclose(actual, reference.mahalanobis(other.numpy()), rtol=1e-8)


def test_unfamiliarity_takes_the_distance_in_the_middle_where_there_is_one():
    features, labels = toy(rows=30, size=6)
    for names in (None, ("mahalanobis", "unfamiliarity")):
        with_it = FeatureScores.fitted(names, features, labels, middle=features)
        assert list(with_it.parts) == ["mahalanobis", "middle_mahalanobis", "unfamiliarity"]
        without = FeatureScores.fitted(names, features, labels)
        assert list(without.parts) == ["mahalanobis", "unfamiliarity"]
    with refused("no-middle"):
        FeatureScores.fitted(["middle_mahalanobis"], features, labels)


def test_the_definition_of_unfamiliarity():
    doubt, distance, middle = torch.tensor([[0.3], [7.0], [5.0]], dtype=F64)
    alone = math.log(7) + math.log(0.3) / 4
    assert Unfamiliarity()(doubt, distance).item() == pytest.approx(alone)
    both = 0.75 * math.log(7) + 0.25 * math.log(5) + 0.25 * math.log(0.3)
    assert Unfamiliarity()(doubt, distance, middle).item() == pytest.approx(both)
