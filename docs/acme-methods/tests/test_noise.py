import torch
from acme_methods.noise import Noise, NoisyWeights
from torch import nn

from bayeslora.adapters.inject import inject
from bayeslora.adapters.lora import LoRA
from bayeslora.testing.weight_posterior import WeightPosteriorLaws


class TestNoise(WeightPosteriorLaws):
    num_inputs = 4

    def make(self, trained):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 3)).eval()
        sites = inject(network, LoRA(r=2, target_modules=("0",)), seed=0)
        if trained:
            nn.init.normal_(sites[0].B.weight)
        return network, NoisyWeights(Noise(), sites)
