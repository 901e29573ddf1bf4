"""Stratified samples and splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslora.data.splits import (
    grouped_folds,
    grouped_split,
    stratified_folds,
    stratified_sample,
    stratified_split,
)
from bayeslora.errors import InputError

COUNTS = st.lists(st.integers(2, 40), min_size=2, max_size=6)
SEEDS = st.integers(0, 2**32)


def shuffled(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels)


def test_shares_are_kept():
    labels = shuffled([60, 30, 10])
    sample = stratified_sample(labels, 20, seed=0)
    assert np.bincount(labels[sample]).tolist() == [12, 6, 2]


def test_balanced_samples_have_equal_counts_even_of_skewed_classes():
    labels = shuffled([600, 30, 10])
    sample = stratified_sample(labels, 30, seed=0, balanced=True)
    assert np.bincount(labels[sample]).tolist() == [10, 10, 10]
    eleven = stratified_sample(labels, 11, seed=0, balanced=True)
    assert np.bincount(labels[eleven]).tolist() == [4, 4, 3]


@given(COUNTS, SEEDS, st.data())
def test_sample_laws(counts, seed, data):
    labels = shuffled(counts, seed)
    size = data.draw(st.integers(len(counts), len(labels)))
    sample = stratified_sample(labels, size, seed)
    assert len(sample) == len(set(sample.tolist())) == size
    assert np.all(np.diff(sample) > 0)
    got = np.bincount(labels[sample], minlength=len(counts))
    assert got.min() >= 1
    # Webster's rule, except for the guaranteed first row of each class: no omitted row has a
    # smaller key than a selected row.
    counts = np.array(counts)
    taken = np.where(got > 1, (got - 0.5) / counts, -1).max()
    left = np.where(got < counts, (got + 0.5) / counts, 2).min()
    assert taken <= left


@given(COUNTS, SEEDS, st.data())
def test_split_laws(counts, seed, data):
    labels = shuffled(counts, seed)
    size = data.draw(st.integers(len(counts), len(labels) - len(counts)))
    train, held_out = stratified_split(labels, size, seed)
    assert len(held_out) == size
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert set(labels[train]) == set(labels[held_out]) == set(labels)
    again = stratified_split(labels, size, seed)
    assert np.array_equal(train, again[0])
    assert np.array_equal(held_out, again[1])


def test_a_fraction_is_a_number_of_rows():
    labels = shuffled([50, 50])
    train, held_out = stratified_split(labels, 0.2, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [10, 10]
    assert np.bincount(labels[train]).tolist() == [40, 40]
    assert np.array_equal(held_out, stratified_split(labels, 20, seed=3)[1])


def test_every_row_of_a_class_is_as_likely_as_any_other():
    labels = np.repeat([0, 1], [6, 4])
    draws = 2000
    hits = np.zeros(10)
    for seed in range(draws):
        hits[stratified_sample(labels, 5, seed)] += 1
    # Each row is drawn with probability 1/2. A count of 2000 fair coins is more than 6 standard
    # deviations (134) from 1000 in fewer than 1 of 10^8 sets of ten rows.
    assert np.all(np.abs(hits - draws / 2) < 134)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: stratified_sample(shuffled([5, 5]), 11, 0), ["draw 11 of 10 rows", "between 2 "]),
        (lambda: stratified_sample(shuffled([5, 5]), 1, 0), ["draw 1 of 10 rows"]),
        (lambda: stratified_split(np.array([0, 0, 0, 1]), 2, 0), ["class 1 has one row"]),
        (lambda: stratified_split(shuffled([5, 5]), 9, 0), ["hold out 9 of 10", "2 to 8"]),
        (lambda: stratified_split(shuffled([5, 5]), 0.01, 0), ["hold out 0 of 10"]),
    ],
)
def test_errors_name_the_class_and_the_numbers(call, parts):
    with pytest.raises(InputError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    folds=st.integers(2, 6),
    seed=st.integers(0, 3),
)
def test_folds_and_the_classes_in_them_differ_by_one_row_at_most(labels, folds, seed):
    labels, folds = np.array(labels), min(folds, len(labels))
    fold = stratified_folds(labels, folds, seed)
    for rows in (np.ones(len(labels), dtype=bool), *(labels == name for name in set(labels))):
        sizes = np.bincount(fold[rows], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(fold, stratified_folds(labels, folds, seed))


@given(st.lists(st.integers(1, 4), min_size=3, max_size=30), SEEDS, st.floats(0.05, 0.6))
def test_groups_stay_together(sizes, seed, share):
    groups = [f"g{k}" for k, size in enumerate(sizes) for _ in range(size)]
    train, held_out = grouped_split(groups, share, seed)
    assert sorted([*train, *held_out]) == list(range(len(groups)))
    assert not {groups[k] for k in train} & {groups[k] for k in held_out}
    minimum = max(round(share * len(groups)), 1)
    assert minimum <= len(held_out) < minimum + max(sizes)
    fold = grouped_folds(groups, 3, seed)
    assert set(fold) == {0, 1, 2}
    assert all(len({*fold[np.array(groups) == name]}) == 1 for name in groups)
