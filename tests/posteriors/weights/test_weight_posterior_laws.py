"""The laws of posteriors over weights, for each of ours, and faults that they detect."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from refusal import refused
from small_sites import lora_site, polar_site
from torch import nn

from bayeslora import TFB, LoRA, MCDropout, PoLAR
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.posteriors.registry import POSTERIORS
from bayeslora.posteriors.weights.mc_dropout import MCDropoutDraws
from bayeslora.posteriors.weights.tfb import set_factors, turned
from bayeslora.testing.weight_posterior import WeightPosteriorLaws


def jitter(module, seed=3):
    """Move every parameter a little, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for item in module.parameters():
            item.add_(0.1 * torch.randn(item.shape, generator=generator))


def collect(site, weights):
    """Collect the moments of a few training states."""
    for seed in range(4):
        jitter(site, seed)
        weights.collect()
    weights.before_last_layer(None)


def search(site, weights):
    """Set the noise scale, as a search does."""
    set_factors(site, turned(site))
    weights.sigma.fill_(0.2)


def measure(site, weights):
    """Set a curvature."""
    weights.hess.copy_(torch.linspace(0.1, 5, len(weights.hess)))
    jitter(site)


def move(site, weights):
    """Update the parameters, as gradient steps do."""
    jitter(weights)
    jitter(site)


TRAINED = {"swag": collect, "tfb": search, "ivon": measure}
"""Training of posteriors where it changes more than parameters."""
OPTIONS = {"ivon": {"ess": 50.0}}


def laws(posterior, make_site):
    """Return the suite of a posterior over the weights of one site."""
    config = posterior(**OPTIONS.get(posterior.name, {}))

    class Laws(WeightPosteriorLaws):
        def make(self, trained):
            site = make_site()
            network = SimpleNamespace(sites=[site], head=nn.Identity())
            weights = config.over_weights(network, seed=0)
            if trained:
                TRAINED.get(posterior.name, move)(site, weights)
            return site, weights

    return Laws


REFUSED = {("scalabl", "polar"): "no-free-factor"}


def every_suite():
    """Yield the suites of every posterior that draws an adapter's weights, by name."""
    for posterior in POSTERIORS.values():
        if not posterior.is_sampled or issubclass(posterior, MCDropout):  # does not draw weights
            continue
        for adapter, make_site in ((LoRA, lora_site), (PoLAR, polar_site)):
            if (posterior.name, adapter.name) in REFUSED:
                continue
            posterior().adapter_for(adapter())
            yield f"Test{posterior.__name__}Over{adapter.__name__}", laws(posterior, make_site)


globals().update(every_suite())


@pytest.mark.parametrize(("pair", "code"), REFUSED.items())
def test_a_pair_without_a_suite_is_refused(pair, code):
    with refused(code):
        POSTERIORS[pair[0]]().adapter_for(ADAPTERS[pair[1]]())


class TestMCDropout(WeightPosteriorLaws):
    def make(self, trained):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
        if trained:
            jitter(network)
        return network, MCDropoutDraws(network, lambda: network(torch.randn(2, 4)))


class Careless:
    """Normal noise on the weights of a layer, with one mistake."""

    def __init__(self, network, mistake):
        self.network, self.mistake = network, mistake

    @contextmanager
    def draw(self, generator):
        weight = self.network.weight.data
        original = weight.clone()
        source = None if self.mistake == "global noise" else generator
        noise = torch.randn(weight.shape, generator=source)
        if self.mistake != "no noise":
            weight.add_(noise)
        if self.mistake == "no protection":
            yield
            weight.copy_(original)
            return
        try:
            yield
        finally:
            if self.mistake == "subtracts":
                weight.sub_(noise)
            else:
                weight.copy_(original)


def careless(mistake):
    class Suite(WeightPosteriorLaws):
        def make(self, trained):
            torch.manual_seed(int(trained))
            network = nn.Linear(4, 3).eval()
            return network, Careless(network, mistake)

    return Suite()


MISTAKES = {
    "no noise": "test_draws_spread",
    "global noise": "test_the_generator_alone_decides_the_draws",
    "subtracts": "test_drawing_leaves_everything_as_it_was",
    "no protection": "test_drawing_leaves_everything_as_it_was",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught_by_its_law(mistake):
    for kind in (None, mistake):
        suite = careless(kind)
        law = getattr(suite, MISTAKES[mistake])
        if kind is None:
            law(suite.make(trained=True))
            continue
        with pytest.raises(AssertionError):
            law(suite.make(trained=True))


def test_tensors_that_are_not_saved_are_caught():
    class Forgetful(laws(TFB, lora_site)):
        def make(self, trained):
            site, weights = super().make(trained)
            weights.register_buffer("sigma", weights.sigma, persistent=False)
            return site, weights

    suite = Forgetful()
    with pytest.raises(AssertionError):
        suite.test_tensors_are_the_whole_posterior(suite.make(trained=True))
