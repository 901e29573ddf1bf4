"""The search for TFB's noise on a trained network, compared with a scan."""

import pytest
from small_fits import fresh

from bayeslora import TFB
from bayeslora.adapters.lora import LoRA
from bayeslora.posteriors.weights.tfb import degradation_on_anchors


@pytest.fixture(scope="module")
def fit(encoder, tmp_path_factory):
    fit = fresh(encoder, TFB(), LoRA(r=2, num_layers=2, lr=1e-2), epochs=6)
    fit.run(tmp_path_factory.mktemp("tfb"), fit_last=False)
    fit.start_state = fit.network.trained_state()
    return fit


@pytest.fixture(autouse=True)
def _same_start(fit):
    fit.network.load_trained_state(fit.start_state)


def degradation(fit, config):
    return degradation_on_anchors(
        config, fit.network, fit.network.weights, fit.train, fit.train.labels, seed=3
    )


def test_the_chosen_sigma_is_the_largest_of_a_scan(fit):
    """Scan and bisection use the same grid: 2^4 intervals in log σ."""
    config = TFB(num_steps=4, num_anchors=24, sigma_min=1e-2, sigma_max=20.0)
    weights = fit.network.weights
    weights.fit(config, degradation(fit, config))
    chosen = float(weights.sigma)
    assert config.sigma_min < chosen < config.sigma_max
    measure = degradation(fit, config)
    accepted = []
    for place in range(17):
        sigma = 1e-2 * 2000 ** (place / 16)
        weights.sigma.fill_(sigma)
        if measure() <= config.tolerance:
            accepted.append(sigma)
    assert chosen in [pytest.approx(sigma, rel=1e-9) for sigma in accepted]
    # The NLL is nearly monotone: larger values that the scan accepts are within one interval.
    assert max(accepted) <= chosen * 2000 ** (1 / 16) * (1 + 1e-9)
