"""PiSSA's start against the decomposition that defines it, and against PEFT."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hosts import tiny_llama, tokens
from torch import nn

from bayeslora.adapters.inject import inject
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.adapters.pissa import PiSSA, pissa
from bayeslora.testing.adapter import output, stack


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=seeded(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 8.0), st.integers(0, 99), st.data())
def test_the_product_is_the_best_approximation(rows, columns, scale, seed, data):
    """The residual has the remaining singular values (Eckart and Young)."""
    r = data.draw(st.integers(1, min(rows, columns)))
    W = matrix(rows, columns, seed)
    A, B, core, orthonormal, centred = pissa(W, r, scale)
    assert (core, orthonormal, centred) == (None, False, True)
    residual = W - scale * B.double() @ A.double()
    values = torch.linalg.svdvals(W)
    left = torch.linalg.svdvals(residual)
    # Factors in float32: 6e-8 relative each, on products of the size of the largest value.
    tolerance = 1e-6 * float(values[0])
    torch.testing.assert_close(left[: len(values) - r], values[r:], atol=tolerance, rtol=0)
    assert (left[len(values) - r :] < tolerance).all()


def test_the_factors_are_balanced_and_orthogonal():
    W, r, scale = matrix(9, 7), 4, 2.0
    A, B, *_ = pissa(W, r, scale)
    expected = torch.diag(torch.linalg.svdvals(W)[:r] / scale)
    for gram in (A.double() @ A.double().T, B.double().T @ B.double()):
        torch.testing.assert_close(gram, expected, atol=1e-6, rtol=0)


def test_signs_do_not_depend_on_the_decomposition():
    W = matrix(9, 7)
    A, B, *_ = pissa(W, 3, 1.0)
    turned = pissa(-W, 3, 1.0)
    largest = B.abs().argmax(0)
    assert (B.gather(0, largest[None]) > 0).all()
    torch.testing.assert_close(turned.B, B, atol=1e-6, rtol=0)
    torch.testing.assert_close(turned.A, -A, atol=1e-6, rtol=0)


def test_a_bfloat16_host_keeps_its_bits_and_its_function():
    """In the published form the residual would be rounded to bfloat16, by up to 4e-3 relative."""
    plain, host = tiny_llama().to(torch.bfloat16), tiny_llama().to(torch.bfloat16)
    sites = inject(host, PiSSA(r=4), seed=0)
    for site in sites:
        assert torch.equal(site.weight, plain.get_submodule(site.name).weight)
    assert torch.equal(output(host, tokens()), output(plain, tokens()))


def test_it_is_the_published_residual_form():
    host = nn.Linear(7, 6).double()
    W = host.weight.detach().clone()
    factors = pissa(W, 3, 0.5)
    site = LowRank("here", host, factors, scale=0.5).double()
    residual = W - 0.5 * factors.B.double() @ factors.A.double()
    site.A.weight.data += 0.1 * matrix(3, 7)
    site.B.weight.data += 0.1 * matrix(6, 3)
    x = matrix(4, 7)
    expected = x @ (residual + 0.5 * site.B.weight @ site.A.weight).T + host.bias
    torch.testing.assert_close(site(x), expected, atol=1e-12, rtol=1e-12)


def test_weight_decay_pulls_towards_the_start():
    """Without a gradient, each step leaves 1 − lr·λ of the distance to the start."""
    config = PiSSA(r=2, lr=0.1, weight_decay=2.0, target_modules=("head",))
    sites = inject(stack(), config, seed=0)
    optimizer = build_optimizer(sites, [], config, head_lr=0.1)
    start = sites[0].origin()
    for value in sites[0].trainable().values():
        value.data += matrix(*value.shape).float()
        value.grad = torch.zeros_like(value)
    before = {key: value.detach() - start[key] for key, value in sites[0].trainable().items()}
    before = {key: value.clone() for key, value in before.items()}
    optimizer.step()
    optimizer.step()
    for key, value in sites[0].trainable().items():
        torch.testing.assert_close(value - start[key], 0.8**2 * before[key], atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_starts_at_the_same_product():
    """PEFT decomposes in float32; only the products are comparable, because signs are free."""
    peft = pytest.importorskip("peft", reason="the oracle, PEFT, is not installed")
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=["q_proj"], init_lora_weights="pissa", lora_dropout=0.0
    )
    theirs = peft.get_peft_model(tiny_llama(), config)
    host = tiny_llama()
    for site in inject(host, PiSSA(r=3, alpha=6.0, target_modules=("q_proj",)), seed=0):
        layer = theirs.base_model.model.get_submodule(site.name)
        product = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(site.scale * site.B0 @ site.A0, product, atol=1e-6, rtol=0)
        residual = site.weight - site.scale * site.B0 @ site.A0
        torch.testing.assert_close(residual, layer.base_layer.weight, atol=1e-6, rtol=0)
