"""The KL of an input-dependent posterior, as part of training."""

import torch
from small_fits import fresh

from bayeslora import CLoRA
from bayeslora.adapters.lora import LoRA
from bayeslora.posteriors.weights.clora import KLGradient

LORA = LoRA(r=2, num_layers=2)


def gradients(module):
    return {name: item.grad.clone() for name, item in module.named_parameters()}


def one_pass(fit, weight, step=0):
    """Return the gradients of the gates after one batch with a summed loss."""
    network = fit.network.eval()
    gradient = KLGradient(network.weights, weight)
    gradient.before_step(step, 8, None)
    batch = fit.train.collate([0, 3, 5])
    network.weights.zero_grad()
    torch.manual_seed(0)
    with gradient.noise(batch):
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
    plain, batch = one_pass(fit, lambda _: 0.0)
    both, _ = one_pass(fit, lambda step: 0.1 * step, step=3)
    weights.zero_grad()
    # The states of the second layer need the same noise.
    torch.manual_seed(0)
    with weights.noise(), weights.watching() as seen:
        fit.network(batch)
    weights.kl(seen, batch["attention_mask"]).backward()
    for name, kl in gradients(weights).items():
        scale = max(float(both[name].abs().max()), float(plain[name].abs().max()))
        torch.testing.assert_close(both[name], plain[name] + 0.3 * kl, rtol=0, atol=1e-5 * scale)
        assert float(kl.abs().max()) > 0, name


def test_each_step_of_training_asks_for_its_weight(encoder, tmp_path, monkeypatch):
    """Steps after the first epoch ask too, counted over the whole training."""
    steps = []

    def weight(name, num_train, batch_size):
        assert (name, num_train, batch_size) == ("cyclic", 30, 8)
        return lambda step: steps.append(step) or 1 / 30

    monkeypatch.setattr("bayeslora.posteriors.weights.clora.kl_weight", weight)
    fresh(encoder, CLoRA(kl_weights="cyclic"), LORA, epochs=2).run(tmp_path)
    assert steps == list(range(8))
