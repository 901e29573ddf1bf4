"""Configurations: defaults, refusals, and light imports."""

import subprocess
import sys

import pytest

from bayeslora import GVBLL, MAP, NUTS, VBLL, Ensemble, Laplace, LaplaceLoRA, MCDropout
from bayeslora.errors import InputError
from bayeslora.options import as_mapping, resolve
from bayeslora.posteriors.registry import POSTERIORS


def test_importing_configurations_does_not_import_torch():
    code = "import sys, bayeslora.posteriors.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(POSTERIORS))
def test_every_configuration_survives_a_mapping(name):
    config = POSTERIORS[name]()
    assert resolve("posterior", as_mapping(config), POSTERIORS) == config
    assert config.summary


def test_options_as_text():
    config = resolve("posterior", "vbll:prior_scale=4,bound=knowles_minka", POSTERIORS)
    assert config == VBLL(prior_scale=4, bound="knowles_minka")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: MAP(prior_scale=True), ["prior_scale", "True"]),
        (lambda: VBLL(prior_scale=-1.0), ["prior_scale", "-1.0"]),
        (lambda: VBLL(prior_scale="validaton"), ["prior_scale", "did you mean 'validation'"]),
        (lambda: VBLL(bound="jenson"), ["unknown bound 'jenson'", "'jensen'", "'mc'"]),
        (lambda: VBLL(polish_bound="mc"), ["unknown polish_bound 'mc'", "'knowles_minka'"]),
        (
            lambda: VBLL(covariance="full"),
            ["covariance 'full' cannot be combined with polish_bound 'knowles_minka'", "tilted"],
        ),
        (
            lambda: VBLL(training_covariance="full"),
            [
                "training_covariance 'full' cannot be combined with bound 'jensen'",
                "gauss_hermite, mc, til",
            ],
        ),
        (
            lambda: VBLL(training_covariance="full", bound="mc", head_step="refit"),
            ["training_covariance 'full' cannot be combined with polish_bound 'knowles_minka'"],
        ),
        (lambda: VBLL(num_samples=1.5), ["num_samples", "got 1.5"]),
        (lambda: Laplace(prior_precision="map"), ["prior_precision", "'map'", "'marglik'"]),
        (lambda: LaplaceLoRA(last_layer=1), ["last_layer", "true or false", "1"]),
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


@pytest.mark.parametrize("field", ["polish_bound", "bound"])
def test_the_bounds_that_are_offered_for_a_full_covariance_are_accepted(field):
    covariance = "covariance" if field == "polish_bound" else "training_covariance"
    with pytest.raises(InputError) as raised:
        VBLL(**{covariance: "full", field: "jensen"})
    offered = str(raised.value).rpartition(f"choose {field} from ")[2].split(", ")
    assert offered
    for bound in offered:
        VBLL(**{covariance: "full", field: bound})
