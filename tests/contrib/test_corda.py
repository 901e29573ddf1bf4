"""CorDA's start against the decomposition that defines it, the output error, and PEFT."""

import dataclasses
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_moments import inject_with, moments_on
from tiny_hosts import tiny_llama, tokens

from bayeslora.adapters.pissa import pissa
from bayeslora.adapters.targets import find_targets
from bayeslora.contrib.corda import CorDA, corda
from bayeslora.errors import InputError
from bayeslora.testing.adapter import SiteLaws

F64 = torch.float64


class OnContext(SiteLaws):
    """CorDA uses the second moments of the host on the inputs of the laws."""

    is_random = False

    def put(self, model, seed=0):
        names = find_targets(model, self.config.target_modules, self.config.top_layers)
        moments = moments_on(model, names, self.inputs())
        return inject_with(moments, model, self.config, seed)


class TestCorDAOnStack(OnContext):
    config = CorDA(r=2, alpha=3.0, target_modules=("layers.0", "layers.2"))


class TestKeepingCorDAOnLlama(OnContext):
    config = CorDA(
        r=8, mode="kpm", context=("kept",), target_modules=("q_proj", "k_proj"), num_layers=2
    )

    def host(self):
        return tiny_llama()

    def inputs(self):
        return tokens()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def moment(width, seed=0):
    """Return the second moments of 200 tokens with correlated coordinates of unequal size."""
    x = normal(200, width, seed=seed) @ (normal(width, width, seed=seed + 1) + torch.eye(width))
    return x.T @ x / 200


def damped(moments):
    C = moments / moments.diagonal().mean()
    return C + 0.01 * torch.eye(len(C), dtype=F64)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["ipm", "kpm"]),
    st.integers(0, 9),
    st.data(),
)
def test_the_residual_keeps_the_other_triples(rows, columns, mode, seed, data):
    """W_f C̃ has the singular values of W0 C̃ that were not taken; `v_proj` is wide, others tall."""
    r = data.draw(st.integers(1, min(rows, columns)))
    W, moments = normal(rows, columns, seed=seed), moment(columns, seed)
    A, B, *_, centred = corda(W, moments, r, 2.0, mode=mode)
    assert centred
    C = damped(moments)
    values = torch.linalg.svdvals(W @ C)
    left = torch.linalg.svdvals((W - 2.0 * B.double() @ A.double()) @ C)
    expected = values[r:] if mode == "ipm" else values[: len(values) - r]
    # Factors are float32, the condition number of C̃ is a few hundred: 1e-7 · 1e3 of the largest.
    tolerance = 1e-4 * float(values[0])
    torch.testing.assert_close(left[: len(expected)], expected, atol=tolerance, rtol=0)
    assert (left[len(expected) :] < tolerance).all()


def test_without_a_context_it_is_pissa():
    W = normal(8, 6)
    start, expected = corda(W, 3.0 * torch.eye(6, dtype=F64), 3, 1.5), pissa(W, 3, 1.5)
    # Two decompositions in float32, compared factor by factor because signs are fixed.
    torch.testing.assert_close(start.B @ start.A, expected.B @ expected.A, atol=1e-6, rtol=0)
    torch.testing.assert_close(start.A, 1.01**-0.5 * expected.A, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_peft_starts_at_the_same_product(monkeypatch, mode):
    """On one sequence, whose constant factor (PEFT divides by the largest activation) cancels."""
    peft = pytest.importorskip("peft", reason="the oracle, PEFT, is not installed")
    # PEFT needs the dataclass of a package that it does not depend on; ours is equivalent here.
    monkeypatch.setitem(sys.modules, "attr", ModuleType("attr"))
    sys.modules["attr"].dataclass = dataclasses.dataclass
    from peft.tuners.lora.corda import preprocess_corda

    ids = torch.arange(1, 25)[None]
    options = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    config = peft.LoraConfig(
        **options,
        init_lora_weights="corda",
        corda_config=peft.tuners.lora.config.CordaConfig(corda_method=mode),
    )
    model = tiny_llama()
    preprocess_corda(model, config, run_model=lambda: model(ids))
    theirs = peft.get_peft_model(model, config)
    host = tiny_llama()
    ours = CorDA(
        r=3,
        alpha=6.0,
        mode=mode,
        context=("kept",),
        target_modules=("q_proj", "v_proj"),
        num_layers=None,
    )
    names = [f"layers.{n}.self_attn.{kind}" for n in range(3) for kind in ("q_proj", "v_proj")]
    for site in inject_with(moments_on(host, names, ids), host, ours):
        layer = theirs.base_model.model.get_submodule(site.name)
        product = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        # PEFT works in float32 with an explicit inverse.
        torch.testing.assert_close(site.scale * site.B0 @ site.A0, product, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "allowed"), [({"mode": "kpm"}, "context"), ({"context": ()}, "non-empty string")]
)
def test_its_options_are_checked(options, allowed):
    with pytest.raises(InputError, match=allowed):
        CorDA(**options)
