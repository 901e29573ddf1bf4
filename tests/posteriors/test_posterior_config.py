"""Configurations: defaults, refusals, and light imports."""

import subprocess
import sys

import pytest
from refusal import refused

from bayeslora import GVBLL, MAP, NUTS, VBLL, Ensemble, Laplace, MCDropout
from bayeslora.errors import InputError
from bayeslora.options import as_mapping, resolve
from bayeslora.posteriors.registry import POSTERIORS, stored_posterior


def test_importing_configurations_does_not_import_torch():
    code = "import sys, bayeslora.posteriors.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(POSTERIORS))
def test_every_configuration_survives_a_mapping(name):
    config = POSTERIORS[name]()
    assert resolve("posterior", as_mapping(config), POSTERIORS) == config
    assert config.summary


def test_options_as_text():
    config = resolve("posterior", "vbll:prior_scale=4,link=probit", POSTERIORS)
    assert config == VBLL(prior_scale=4, link="probit")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: MAP(prior_scale=True), ["prior_scale", "True"]),
        (lambda: VBLL(prior_scale=-1.0), ["prior_scale", "-1.0"]),
        (lambda: VBLL(prior_scale="cross"), ["prior_scale", "'cross-validation'"]),
        (lambda: VBLL(link="probbit"), ["link", "'probbit'", "'probit'", "'mc'"]),
        (lambda: VBLL(prior_scale="validation"), ["prior_scale", "'empirical-bayes'"]),
        (lambda: VBLL(num_samples=1.5), ["num_samples", "got 1.5"]),
        (lambda: Laplace(prior_precision="map"), ["prior_precision", "'map'", "'marglik'"]),
        (lambda: MCDropout(p=1.0), ["p", "got 1.0"]),
        (lambda: NUTS(num_samples=3), ["num_samples", "got 3"]),
        (lambda: GVBLL(shrinkage=1.5), ["shrinkage", "got 1.5"]),
        (lambda: Ensemble(num_members=0), ["num_members", "got 0"]),
    ],
)
def test_refusals_name_the_value_and_what_is_allowed(make, parts):
    with pytest.raises(InputError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


def test_records_of_earlier_versions_are_read():
    record = as_mapping(VBLL(covariance="dense"))
    old = {"head_step": "joint", "rank": 16, "bound": "tilted", "prior_scale": "validation"}
    expected = VBLL(covariance="dense", prior_scale="empirical-bayes")
    assert stored_posterior(record | old) == expected
    for family in ("diagonal", "full", "low_rank"):
        with refused("option", family, "calibrate"):
            stored_posterior(record | {"covariance": family})
