"""C-LoRA: the function of a gated site, its noise, draws by position, and the KL."""

import pytest
import torch
from small_sites import lora_site, polar_site
from torch import nn
from torch.distributions import Normal, kl_divergence

from bayeslora import CLoRA
from bayeslora.posteriors.weights.clora import CLoRAWeights

F64 = torch.float64
SITES = pytest.mark.parametrize("make", [lora_site, polar_site])


def made(make=lora_site, count=1, *, trained=True, **options):
    """Return sites and weights in float64; a trained gate depends on its input."""
    sites = [make(seed=seed).double() for seed in range(count)]
    weights = CLoRAWeights(CLoRA(num_hidden=6, **options), sites).double()
    if trained:
        generator = torch.Generator().manual_seed(5)
        for gate in weights.gates:
            for item in gate.output.parameters():
                item.data += 0.3 * torch.randn(item.shape, generator=generator, dtype=F64)
    return sites, weights


def states(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 4, generator=generator, dtype=F64)


def moments(site, weights, x):
    """Return the mean and covariance of the output for one input [in], by explicit matrices."""
    A, B = site.A.weight, site.B.weight
    if site.core is not None:
        B = B @ site.core.weight
    z = A @ x
    change, std = (item.detach() for item in weights.gates[0].moments(z))
    base = nn.functional.linear(x, site.weight, site.bias)
    mean = base + site.scale * (B @ ((torch.eye(2, dtype=F64) + change) @ z))
    inner = torch.diag(std.square() @ z.square())
    return mean.detach(), (site.scale**2 * B @ inner @ B.T).detach()


def sampled(site, x, context, count):
    """Return the outputs for one input, [count, out], entering the context `count` times."""
    outputs = []
    for _ in range(count):
        with context(), torch.no_grad():
            outputs.append(site(x))
    return torch.stack(outputs)


@SITES
def test_the_mean_pass_is_that_of_the_formula(make):
    """Compare with s B core (I + M(z)) z per token, in float64; only summation order differs."""
    (site,), weights = made(make)
    x = states(3, 5)
    with torch.no_grad():
        outputs = site(x)
    for row in range(3):
        for token in range(5):
            mean, _ = moments(site, weights, x[row, token])
            torch.testing.assert_close(outputs[row, token], mean, rtol=1e-12, atol=1e-12)


@SITES
@pytest.mark.parametrize("is_draw", [False, True])
def test_noise_has_the_mean_and_covariance_of_e(make, is_draw):
    """Compare 4,000 equal tokens, each with its own noise, or 4,000 draws at the second position of
    a text, with the closed form: 5 standard errors of a mean, and of a covariance,
    √(C_ii C_jj + C_ij²) / √4000 ≤ √2 max C / √4000.
    """
    (site,), weights = made(make)
    x = states()
    mean, covariance = moments(site, weights, x)
    if is_draw:
        generator, text = torch.Generator().manual_seed(0), x.expand(1, 2, 4)
        outputs = sampled(site, text, lambda: weights.draw(generator), 4000)[:, 0, 1]
    else:
        torch.manual_seed(0)
        with weights.noise(), torch.no_grad():
            outputs = site(x.expand(40, 100, 4)).reshape(4000, -1)
    error = 5 / 4000**0.5
    assert ((outputs.mean(0) - mean).abs() <= error * covariance.diagonal().sqrt() + 1e-12).all()
    largest = float(covariance.diagonal().max())
    torch.testing.assert_close(outputs.T.cov(), covariance, rtol=0, atol=error * 2**0.5 * largest)


def test_in_a_draw_texts_share_the_noise_of_a_position_and_positions_do_not():
    """Correlations of 2,000 draws are 1 up to rounding, and 0 within 5 standard errors."""
    (site,), weights = made()
    x = states().expand(2, 3, 4)
    generator = torch.Generator().manual_seed(0)
    outputs = sampled(site, x, lambda: weights.draw(generator), 2000)
    torch.testing.assert_close(outputs[:, 0], outputs[:, 1], rtol=1e-12, atol=1e-12)
    correlation = torch.corrcoef(outputs[:, 0, :, 0].T)
    assert (correlation - torch.eye(3)).abs().max() < 5 / 2000**0.5


def test_a_text_is_predicted_the_same_alone_and_in_any_batch():
    """Neither the padding behind it nor a longer earlier text in the draw matters."""
    (site,), weights = made()
    x = states(3, 150)

    def under(seed, look):
        with weights.draw(torch.Generator().manual_seed(seed)), torch.no_grad():
            return look()

    alone = under(3, lambda: site(x[1:2, :7]))
    together = under(3, lambda: site(x))[1:2, :7]
    after = under(3, lambda: (site(x), site(x[1:2, :7]))[1])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    assert torch.equal(alone, after)


def test_gradients_of_a_noisy_pass_are_those_of_the_formula():
    """Compare with s B (I + M + σ ∘ ε) A x for the same ε, through M, σ, A and B."""
    (site,), weights = made()
    x = states(3)
    torch.manual_seed(1)
    with weights.noise():
        site(x).square().sum().backward()
    gradients = {name: item.grad.clone() for name, item in weights.named_parameters()}
    gradients |= {"A": site.A.weight.grad.clone(), "B": site.B.weight.grad.clone()}
    for item in (*weights.parameters(), site.A.weight, site.B.weight):
        item.grad = None
    torch.manual_seed(1)
    noise = torch.randn(3, 2, 2, dtype=F64)
    z = x @ site.A.weight.T
    change, std = weights.gates[0].moments(z)
    E = torch.eye(2, dtype=F64) + change + std * noise
    code = torch.einsum("nij,nj->ni", E, z)
    base = nn.functional.linear(x, site.weight, site.bias)
    (base + site.scale * code @ site.B.weight.T).square().sum().backward()
    expected = {name: item.grad for name, item in weights.named_parameters()}
    expected |= {"A": site.A.weight.grad, "B": site.B.weight.grad}
    for name, item in expected.items():
        torch.testing.assert_close(gradients[name], item, rtol=1e-10, atol=1e-12)


def kl_by_torch(gate, z, prior_std):
    """Return the mean over tokens [n, r] of the KL of a token's E to N(I, σp²)."""
    change, std = gate.moments(z)
    eye = torch.eye(2, dtype=F64)
    q, p = Normal(eye + change, std), Normal(eye, torch.tensor(prior_std, dtype=F64))
    return kl_divergence(q, p).sum((1, 2)).mean()


@SITES
def test_the_kl_is_that_of_torch_over_the_real_tokens(make):
    """Compare in float64, where only summation order differs; padding holds other numbers."""
    sites, weights = made(make, count=2, prior_std=0.3)
    x = states(2, 3)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    with weights.watching() as seen:
        for site in sites:
            site(x)
    real = x[mask.bool()]
    expected = sum(
        kl_by_torch(gate, site.A(real), 0.3)
        for site, gate in zip(sites, weights.gates, strict=True)
    )
    torch.testing.assert_close(weights.kl(seen, mask), expected, rtol=1e-12, atol=0)
