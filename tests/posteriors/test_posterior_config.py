"""Configurations: defaults, refusals, and light imports."""

import pytest
from refusal import refused

from bayeslora import GVBLL, NUTS, VBLL, Laplace, MCDropout
from bayeslora.options import as_mapping
from bayeslora.posteriors.registry import resolve_posterior


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: VBLL(prior_scale="validation"), "'empirical-bayes'"),
        (lambda: Laplace(prior_precision="map"), "'marglik'"),
        (lambda: MCDropout(p=1.0), "1.0"),
        (lambda: NUTS(num_samples=3), "3"),
        (lambda: GVBLL(shrinkage=1.5), "1.5"),
    ],
)
def test_values_outside_a_methods_own_range_are_refused(make, named):
    with refused("option", named):
        make()


def test_records_of_dropped_families_are_refused():
    record = as_mapping(VBLL(covariance="dense"))
    for family in ("diagonal", "full", "low_rank"):
        with refused("option", family):
            resolve_posterior(record | {"covariance": family})
