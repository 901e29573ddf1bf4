"""The combination of probability and logit variance: its definition, and near and far shifts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.metrics.ood import detection, thresholds
from bayeslora.posteriors import combined
from bayeslora.posteriors.build import build
from bayeslora.posteriors.combined import TailCombination, surprise
from bayeslora.posteriors.config import VBLL

F64 = torch.float64
CLASSES, SIZE = 4, 32


def shifts(seed):
    """Training, validation and test rows, rows between two classes, and rows outside the span.

    The far rows lie further along their class's direction than familiar ones, so that they are
    classified confidently, and have components where training rows have next to none.
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

    train, validation, test = (draw(count) for count in (400, 300, 600))
    near, far = draw(600, between=0.5)[0], 1.5 * draw(600)[0]
    outside = torch.randn(600, SIZE - 8, generator=generator, dtype=F64)
    far[:, 8:] += outside / math.sqrt(SIZE - 8)
    scale = train[0].square().sum(1).mean().sqrt()
    splits = [(rows / scale, labels) for rows, labels in (train, validation, test)]
    return (*splits, near / scale, far / scale)


def auroc(inside, outside):
    return float(detection(thresholds(inside, outside))[0])


def parts(head, rows):
    logits = head.predict(rows)
    return 1 - link_probabilities(logits).probs.max(1).values, logits.variance.sum(1)


@pytest.mark.parametrize("split", ["validation", "train"])
@pytest.mark.parametrize("seed", [0, 1])
def test_near_and_far_shifts_are_both_seen(seed, split):
    """Each part is near chance or worse at one of the shifts; the combination is good at both."""
    train, validation, test, near, far = shifts(seed)
    head = build(VBLL(prior_scale=4.0), SIZE, CLASSES)
    head.fit(*train)
    rows = train[0] if split == "train" else validation[0]
    score = TailCombination.fitted(*parts(head, rows), split)
    familiar = parts(head, test[0])
    found = {}
    for name, shift in (("near", near), ("far", far)):
        unfamiliar = parts(head, shift)
        found[name] = [auroc(*pair) for pair in zip(familiar, unfamiliar, strict=True)]
        found[name].append(auroc(score(*familiar), score(*unfamiliar)))
    by_probability, by_variance, by_both = zip(found["near"], found["far"], strict=True)
    assert by_probability[0] > 0.85
    assert by_probability[1] < 0.6
    assert by_variance[0] < 0.5
    assert by_variance[1] > 0.95
    assert by_both[0] > by_probability[0] - 0.05
    assert by_both[1] > by_variance[1] - 0.05


def test_the_definition_on_a_few_rows():
    known = torch.tensor([4.0, 1.0, 2.0, 3.0])
    score = TailCombination.fitted(known / 10, known, "validation")
    assert score.doubt.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    # Two of four rows have 0.3 or more, and all have a variance of 0.5 or more: 3/5 and 5/5.
    found = score(torch.tensor([0.3], dtype=F64), torch.tensor([0.5], dtype=F64))
    assert found.item() == pytest.approx(-math.log(3 / 5))


def test_the_tail_beyond_all_rows_is_exponential():
    known = torch.arange(100, dtype=F64)
    # Nine values above the 90 % quantile, 90, whose excess is 5 on average.
    values = torch.tensor([120.0, 130.0], dtype=F64)
    expected = [math.log(100 / 9) + (value - 90) / 5 for value in (120, 130)]
    np.testing.assert_allclose(surprise(known, values), expected, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=40),
    st.lists(st.floats(0, 100), min_size=2, max_size=20),
)
def test_surprise_never_falls_and_starts_at_nothing(known, values):
    known = torch.tensor(known, dtype=F64).sort().values
    values = torch.tensor(values, dtype=F64).sort().values
    found = surprise(known, values)
    assert (found.diff() >= -1e-12).all()
    assert torch.isfinite(found).all()
    assert surprise(known, known[:1]).item() == pytest.approx(0, abs=1e-12)


def test_surprise_of_familiar_rows_is_the_logarithm_of_a_uniform_number():
    """−log U has mean 1; five standard errors of 4,000 draws and as many known ones."""
    generator = torch.Generator().manual_seed(0)
    known, fresh = torch.randn(2, 4000, generator=generator, dtype=F64)
    found = surprise(known.sort().values, fresh)
    assert found.mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / 4000))


def test_values_of_many_rows_are_thinned_in_order(monkeypatch):
    monkeypatch.setattr(combined, "MAX_ROWS", 11)
    values = torch.randperm(101, generator=torch.Generator().manual_seed(0)).double()
    score = TailCombination.fitted(values, 2 * values, "train")
    assert score.doubt.tolist() == [10.0 * k for k in range(11)]
    assert score.variance.tolist() == [20.0 * k for k in range(11)]
    assert score.extra_config() == {"rows": 11, "split": "train"}


def test_rows_without_variance_are_refused():
    with pytest.raises(InputError, match="needs logit variance"):
        TailCombination.fitted(torch.rand(5), torch.zeros(5), "train")
