"""The KL of an input-dependent posterior, as part of training."""

import math

import torch
from small_fits import fresh

from bayeslora import CLoRA
from bayeslora.adapters.lora import LoRA
from bayeslora.posteriors.types import TrainingRun

LORA = LoRA(r=2, num_layers=2)


def gradients(module):
    return {name: item.grad.clone() for name, item in module.named_parameters()}


def one_pass(fit, num_train):
    """Return the gradients of the gates after one batch with a summed loss."""
    network = fit.network.eval()
    training = network.weights.weight_training(TrainingRun(network, LORA, num_train, 8))
    batch = fit.train.collate([0, 3, 5])
    network.weights.zero_grad()
    torch.manual_seed(0)
    with training.noise(batch):
        network(batch).values.square().sum().backward()
    return gradients(network.weights), batch


def test_the_gradient_is_that_of_the_loss_plus_the_weighted_kl(encoder):
    """Errors are in float32, relative to the largest entry of a tensor."""
    fit = fresh(encoder, CLoRA(), LORA)
    weights = fit.network.weights
    for site in fit.network.sites:
        torch.nn.init.normal_(site.B.weight)
    for gate in weights.gates:
        torch.nn.init.normal_(gate.output.weight, std=0.1)
    plain, batch = one_pass(fit, math.inf)
    both, _ = one_pass(fit, 10)
    weights.zero_grad()
    # The states of the second layer need the same noise.
    torch.manual_seed(0)
    with weights.noise(), weights.watching() as seen:
        fit.network(batch)
    weights.kl(seen, batch["attention_mask"]).backward()
    for name, kl in gradients(weights).items():
        scale = max(float(both[name].abs().max()), float(plain[name].abs().max()))
        torch.testing.assert_close(both[name], plain[name] + 0.1 * kl, rtol=0, atol=1e-5 * scale)
        assert float(kl.abs().max()) > 0, name
