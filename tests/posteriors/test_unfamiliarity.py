"""The score that combines distance and doubt: its definition, and near and far shifts."""

import math

import pytest
import torch

from bayeslora import VBLL
from bayeslora.links import link_probabilities
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.fitted_scores import FeatureScores, Unfamiliarity
from bayeslora.posteriors.registry import build_head

F64 = torch.float64
CLASSES, SIZE = 4, 32


def shifts(seed):
    """Return training and test rows, rows between two classes, and rows outside the span.

    The far rows lie further along their class's direction than familiar rows, so they are
    classified confidently, and have components where training rows have almost none.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.zeros(CLASSES, SIZE, dtype=F64)
    centres[:, :CLASSES] = 2 * torch.eye(CLASSES, dtype=F64)
    noise = torch.full((SIZE,), 0.05, dtype=F64)
    noise[:CLASSES] = 0.5
    noise[CLASSES:8] = 0.3

    def draw(count, between=0.0):
        labels = torch.arange(count) % CLASSES
        other = (labels + 1 + torch.arange(count) // CLASSES % (CLASSES - 1)) % CLASSES
        means = (1 - between) * centres[labels] + between * centres[other]
        return means + torch.randn(count, SIZE, generator=generator, dtype=F64) * noise, labels

    train, test = draw(400), draw(600)[0]
    near, far = draw(600, between=0.5)[0], 1.5 * draw(600)[0]
    outside = torch.randn(600, SIZE - 8, generator=generator, dtype=F64)
    far[:, 8:] += outside / math.sqrt(SIZE - 8)
    return train, test, near, far


def auroc(inside, outside):
    return float(detection(sorted_by_uncertainty(inside, outside))[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_near_and_far_shifts_are_both_seen(seed):
    """The probability is at chance or worse on one shift; the combination is good on both."""
    train, test, near, far = shifts(seed)
    head = build_head(VBLL(prior_scale=4.0), SIZE, CLASSES)
    head.fit(Features(*train))
    scores = FeatureScores.fitted(None, *train)

    def parts(rows):
        distances = scores.of_features(rows)
        doubt = 1 - link_probabilities(head.predict(Features(rows))).probs.max(1).values
        return (
            doubt,
            distances["mahalanobis"],
            scores.of_probabilities(doubt, distances)["unfamiliarity"],
        )

    familiar = parts(test)
    by_near, by_far = (
        [auroc(*pair) for pair in zip(familiar, parts(rows), strict=True)] for rows in (near, far)
    )
    assert by_near[0] > 0.85
    assert by_far[0] < 0.65
    assert by_far[1] > 0.95
    assert by_near[2] > max(by_near[1], by_near[0] - 0.05)
    assert by_far[2] > 0.9


def test_the_definition():
    doubt, distance, middle = torch.tensor([[0.3], [7.0], [5.0]], dtype=F64)
    alone = math.log(7) + math.log(0.3) / 4
    assert Unfamiliarity()(doubt, distance).item() == pytest.approx(alone)
    both = 0.75 * math.log(7) + 0.25 * math.log(5) + 0.25 * math.log(0.3)
    assert Unfamiliarity()(doubt, distance, middle).item() == pytest.approx(both)
