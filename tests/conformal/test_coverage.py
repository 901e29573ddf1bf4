"""The guarantees of conformal sets, over a thousand splits of rows into fit and test.

With n fit rows and distinct scores, k = ⌈(n + 1)(1 − alpha)⌉, the number of m test rows that are
covered follows a beta-binomial law with parameters k and n + 1 − k, whatever the probabilities are:
all orders of n + m rows are equally likely. A thousand independent splits of the same n + m rows
are a thousand draws of it.
"""

import numpy as np
import pytest
from drawn_rows import covered, drawn
from scipy.stats import betabinom, chisquare

from bayeslora.conformal import build

SPLITS, FIT, TEST, ALPHA = 1000, 40, 20, 0.1

# A correct implementation fails one of these tests with a probability of 1e-4 or less, for a seed
# that is not chosen by the result.
DEVIATIONS, RARE = 4.0, 1e-4


def splits(rows, method, fit):
    """Yield the test rows with their sets, for many splits of `rows`."""
    generator = np.random.default_rng(7)
    for seed in range(SPLITS):
        order = generator.permutation(len(rows))
        options = {"seed": seed} if "lac" not in method else {}
        config = {"alpha": ALPHA, "name": method.partition(":")[0], **options}
        config |= {"classwise": True} if "classwise" in method else {}
        config |= {"randomised": False} if "plain" in method else {}
        predictor = build(config).fit(rows.take(order[:fit]))
        yield predictor.apply(rows.take(order[fit:]))


@pytest.mark.parametrize("method", ["lac", "aps", "raps", "ordinal"])
def test_coverage_follows_its_exact_law(method):
    rows = drawn(FIT + TEST, sharp=3.0, seed=2)  # the stated probabilities are much too confident
    hits = np.array([covered(part).sum() for part in splits(rows, method, FIT)])
    rank = int(np.ceil(round((FIT + 1) * (1 - ALPHA), 9)))
    law = betabinom(TEST, rank, FIT + 1 - rank)
    spread = law.std() / np.sqrt(SPLITS)
    assert abs(hits.mean() - law.mean()) < DEVIATIONS * spread
    assert law.mean() / TEST >= 1 - ALPHA
    # The whole law: counts below 15 of 20 in one cell.
    seen = np.array([(hits <= 14).sum(), *(int((hits == k).sum()) for k in range(15, TEST + 1))])
    expected = SPLITS * np.array([law.cdf(14), *law.pmf(np.arange(15, TEST + 1))])
    assert chisquare(seen, expected).pvalue > RARE


@pytest.mark.parametrize("method", ["aps:plain", "raps:plain"])
def test_sets_that_are_not_randomised_cover_at_least_as_much(method):
    rows = drawn(FIT + TEST, sharp=3.0, seed=2)
    hits = np.array([covered(part).mean() for part in splits(rows, method, FIT)])
    assert hits.mean() > 1 - ALPHA - DEVIATIONS * hits.std() / np.sqrt(SPLITS)


@pytest.mark.parametrize("method", ["lac:classwise", "aps:classwise"])
def test_coverage_within_every_class(method):
    """Classes of unequal difficulty: with a common threshold they would be covered unevenly."""
    rows = drawn(240, 3, seed=4, sharp=2.0)
    tilted = rows.probs * np.array([1.0, 4.0, 0.25])
    rows = rows.with_probs(tilted / tilted.sum(1, keepdims=True))
    shares = np.array(
        [
            [covered(part)[part.labels == c].mean() for c in range(3)]
            for part in splits(rows, method, 180)
        ]
    )
    together = [
        [covered(part)[part.labels == c].mean() for c in range(3)]
        for part in list(splits(rows, method.partition(":")[0], 180))[:200]
    ]
    for c in range(3):
        spread = shares[:, c].std() / np.sqrt(SPLITS)
        assert shares[:, c].mean() > 1 - ALPHA - DEVIATIONS * spread
        # at most 1 / (n_c + 1) above, and each class has more than 30 fit rows
        assert shares[:, c].mean() < 1 - ALPHA + 1 / 30 + DEVIATIONS * spread
    assert np.ptp(np.mean(together, 0)) > 0.1
