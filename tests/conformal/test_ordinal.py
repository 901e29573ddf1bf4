"""Sets of ordered classes, against the greedy search of their source."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bayeslora.conformal import OrdinalAPS, outward
from bayeslora.predictions.record import Predictions


def greedy(row):
    """Return the classes in the order in which a set grows from the most probable class."""
    low = high = int(np.argmax(row))
    order = [low]
    while len(order) < len(row):
        below = row[low - 1] if low else -1.0
        above = row[high + 1] if high + 1 < len(row) else -1.0
        low, high = (low - 1, high) if below >= above else (low, high + 1)
        order.append(low if below >= above else high)
    return order


@given(arrays(float, st.tuples(st.integers(1, 8), st.integers(2, 7)), elements=st.integers(0, 4)))
def test_classes_are_taken_as_by_the_greedy_search(weights):
    assert outward(weights).tolist() == [greedy(row) for row in weights]


@given(st.integers(0, 10**6), st.floats(0.05, 0.6))
def test_sets_have_no_gaps(seed, alpha):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.full(6, 0.5), 50)
    rows = Predictions(probs, tuple("abcdef"), generator.integers(0, 6, 50))
    sets = OrdinalAPS(alpha=alpha, randomised=False).fit(rows).apply(rows).sets
    starts = (np.diff(sets.astype(int), axis=1, prepend=0) == 1).sum(1)
    assert (starts == 1).all()
    assert sets[np.arange(50), probs.argmax(1)].all()
