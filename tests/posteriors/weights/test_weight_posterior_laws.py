"""The laws of posteriors over weights, for each of ours, and that they catch mistakes."""

from contextlib import contextmanager

import pytest
import torch
from small_sites import lora_site, polar_site
from torch import nn

from bayeslora import IVON, SWAG, BLoB, CLoRA, ScalaBL
from bayeslora.posteriors.weights.blob.posterior import BLoBWeights
from bayeslora.posteriors.weights.clora.posterior import CLoRAWeights
from bayeslora.posteriors.weights.dropout.draws import MCDropoutDraws
from bayeslora.posteriors.weights.ivon.posterior import IVONWeights
from bayeslora.posteriors.weights.scalabl.posterior import ScalaBLWeights
from bayeslora.posteriors.weights.swag.posterior import SWAGWeights
from bayeslora.posteriors.weights.tfb.posterior import TFBWeights, turn
from bayeslora.testing.weight_posterior import WeightPosteriorLaws


def jitter(module, seed=3):
    """Move every parameter a little, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for item in module.parameters():
            item.add_(0.1 * torch.randn(item.shape, generator=generator))


class TestSWAG(WeightPosteriorLaws):
    site = staticmethod(lora_site)

    def make(self, trained):
        site = self.site()
        weights = SWAGWeights(SWAG(), list(site.trainable().values()))
        if trained:
            for seed in range(4):
                jitter(site, seed)
                weights.collect()
            weights.put_mean()
        return site, weights


class TestPolarSWAG(TestSWAG):
    site = staticmethod(polar_site)


class TestTFB(WeightPosteriorLaws):
    site = staticmethod(lora_site)

    def make(self, trained):
        site = self.site()
        weights = TFBWeights([site])
        if trained:
            turn(site)
            weights.sigma.fill_(0.2)
        return site, weights


class TestPolarTFB(TestTFB):
    site = staticmethod(polar_site)


class TestBLoB(WeightPosteriorLaws):
    site = staticmethod(lora_site)

    def make(self, trained):
        site = self.site()
        weights = BLoBWeights(BLoB(), [site])
        if trained:
            jitter(weights)
            jitter(site)
        return site, weights


class TestPolarBLoB(TestBLoB):
    site = staticmethod(polar_site)


class TestIVON(WeightPosteriorLaws):
    site = staticmethod(lora_site)

    def make(self, trained):
        site = self.site()
        weights = IVONWeights(IVON(ess=50.0), [site])
        if trained:
            weights.hess.copy_(torch.linspace(0.1, 5, len(weights.hess)))
            jitter(site)
        return site, weights


class TestPolarIVON(TestIVON):
    site = staticmethod(polar_site)


class TestScalaBL(WeightPosteriorLaws):
    def make(self, trained):
        site = lora_site()
        weights = ScalaBLWeights(ScalaBL(), [site])
        if trained:
            jitter(weights)
        return site, weights


class TestCLoRA(WeightPosteriorLaws):
    site = staticmethod(lora_site)

    def make(self, trained):
        site = self.site()
        weights = CLoRAWeights(CLoRA(), [site])
        if trained:
            jitter(weights)
            jitter(site)
            weights.measured.copy_(torch.tensor([3.0, 0.01, 0.04]))
        return site, weights


class TestPolarCLoRA(TestCLoRA):
    site = staticmethod(polar_site)


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
        kept = weight.clone()
        source = None if self.mistake == "global noise" else generator
        noise = torch.randn(weight.shape, generator=source)
        if self.mistake != "no noise":
            weight.add_(noise)
        if self.mistake == "no protection":
            yield
            weight.copy_(kept)
            return
        try:
            yield
        finally:
            if self.mistake == "subtracts":
                weight.sub_(noise)
            else:
                weight.copy_(kept)


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
    "no protection": "test_an_exception_within_a_draw_leaves_everything_as_it_was",
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
    class Forgetful(TestTFB):
        def make(self, trained):
            site, weights = super().make(trained)
            weights.register_buffer("sigma", weights.sigma, persistent=False)
            return site, weights

    suite = Forgetful()
    with pytest.raises(AssertionError):
        suite.test_tensors_are_the_whole_posterior(suite.make(trained=True))
