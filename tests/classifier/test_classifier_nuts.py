"""The reference posterior in a classifier: fit, calibration, saving and loading."""

import numpy as np
import pytest
from tiny import toy_rows
from usage import TEST, fitted, from_transformers, same

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("beside_nothing")

QUICK = bl.NUTS(kernel="hmc", num_chains=2, num_warmup=30, num_samples=40)


def test_the_seed_of_the_fit_is_that_of_the_chains(foreign, llama):
    first = from_transformers(foreign, QUICK).calibrate(toy_rows(30))
    again = from_transformers(foreign).calibrate(toy_rows(30), posterior=QUICK)
    assert same(first.predict(TEST), again.predict(TEST))
    heads = [fitted(llama, "lora:r=2", QUICK, seed=seed).network.head for seed in (0, 5)]
    assert [head.seed for head in heads] == [0, 5]


def test_another_posterior_starts_from_the_mean_of_the_draws(foreign):
    clf = from_transformers(foreign, QUICK).calibrate(toy_rows(30))
    mean = clf.predict(TEST, num_samples=0).probs
    clf.calibrate(toy_rows(30), posterior="laplace")
    # Draws are stored in single precision, like the weights.
    np.testing.assert_allclose(clf.predict(TEST, num_samples=0).probs, mean, atol=1e-5)
