"""Sites that train columns of a weight: outputs, saved tensors, invalid arguments."""

import pytest
import torch
from known_moments import inject_with, moments_on
from tiny_hosts import OnBert, OnLlama, tiny_bert, tiny_llama, tokens
from torch import nn
from torch.nn import functional as F

from bayeslora.adapters.inject import adapter_state, inject, load_adapter_state
from bayeslora.adapters.low_rank import spectrum, summary
from bayeslora.adapters.peft_bridge import export_peft
from bayeslora.contrib.s2ft import S2FT, Columns, column_targets
from bayeslora.errors import InputError
from bayeslora.testing.adapter import SiteLaws, output, randomise

LLAMA = S2FT(o_ratio=0.3, d_ratio=0.2)


class TestColumnsOnStack(SiteLaws):
    config = S2FT(d_ratio=0.5, target_modules=("layers.0", "layers.2"))


class TestColumnsByWeightOnBert(OnBert):
    config = S2FT(o_ratio=0.5, d_ratio=0.3, selection="weight", num_layers=1)
    is_random = False


class TestColumnsByProductOnLlama(OnLlama):
    config = S2FT(o_ratio=0.75, d_ratio=0.6, selection="product", largest=False)
    is_random = False

    def put(self, model, seed=0):
        moments = moments_on(model, column_targets(model, self.config), self.inputs())
        return inject_with(moments, model, self.config, seed)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def site_on(idx, in_features=7, out_features=5, **options):
    torch.manual_seed(0)
    columns = torch.tensor(idx, dtype=torch.int64)
    return Columns("here", nn.Linear(in_features, out_features, **options), columns)


def test_forward_and_change_by_hand():
    host = nn.Linear(3, 2)
    host.weight.data = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    host.bias.data = torch.tensor([0.5, 0.0])
    site = Columns("here", host, torch.tensor([2, 0]))
    assert site.idx.tolist() == [0, 2]
    site.sel.weight.data = torch.tensor([[10.0, 100.0], [0.0, -1.0]])
    expected = torch.tensor([0.5 + 1 + 2 + 3 + 10 + 100, 4 + 5 + 6 - 1.0])
    torch.testing.assert_close(site(torch.ones(3)), expected)
    change = torch.tensor([[10.0, 0.0, 100.0], [0.0, 0.0, -1.0]])
    assert torch.equal(site.delta(), change)
    assert torch.equal(site.merged().weight, host.weight + change)


@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_is_these_columns_of_the_full_one(shape, bias):
    """Compare with autograd on the whole weight, also summed over two passes."""
    host = nn.Linear(7, 5, bias=bias).double()
    W = host.weight.detach().clone().requires_grad_()
    bias = None if host.bias is None else host.bias.detach().clone()
    site = Columns("here", host, torch.tensor([1, 4, 6])).double()
    x, G = drawn(*shape, dtype=torch.float64), drawn(*shape[:-1], 5, seed=1, dtype=torch.float64)
    x = x.requires_grad_()
    full = x.detach().clone().requires_grad_()
    for _ in range(2):
        (site(x).tanh() * G).sum().backward()
        (F.linear(full, W, bias).tanh() * G).sum().backward()
    torch.testing.assert_close(site.sel.weight.grad, W.grad[:, [1, 4, 6]], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(x.grad, full.grad, atol=1e-12, rtol=1e-12)


def test_without_columns_a_site_is_the_frozen_layer():
    site = site_on([])
    x = drawn(4, 7)
    assert torch.equal(site(x), F.linear(x, site.weight, site.bias))
    assert site.trainable() == site.linears() == site.origin() == {}
    assert not any(value.requires_grad for value in site.parameters())
    assert torch.count_nonzero(site.delta()) == 0
    assert torch.equal(site.merged().weight, site.weight)
    result = spectrum(site)
    assert result.singular_values == ()
    assert result.norm == 0
    assert result.stable_rank != result.stable_rank
    assert summary([site])["num_parameters"] == 0


def test_saved_columns_are_those_of_the_model_that_loads_them():
    """Another seed trains other columns, and on one layer more of them."""
    sites = inject(tiny_llama(), LLAMA, seed=0)
    randomise(sites)
    fresh = tiny_llama()
    others = inject(fresh, LLAMA, seed=5)
    assert [site.k for site in sites] != [site.k for site in others]
    parameters = [site.sel.weight for site in others]
    load_adapter_state(others, adapter_state(sites))
    for site, other, parameter in zip(sites, others, parameters, strict=True):
        assert torch.equal(site.idx, other.idx)
        assert torch.equal(site.delta(), other.delta())
        assert other.sel.weight is parameter


def test_something_has_to_be_trained():
    with pytest.raises(InputError, match="0"):
        S2FT(o_ratio=0, d_ratio=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("host", [tiny_llama, tiny_bert])
def test_columns_are_a_lora_that_picks_them(tmp_path, host):
    """Each layer's rank is its number of columns; layers without columns are not in the file."""
    peft = pytest.importorskip("peft", reason="the oracle, PEFT, is not installed")
    model = host()
    sites = inject(model, S2FT(o_ratio=0.1, d_ratio=0.05), seed=0)
    randomise(sites)
    ranks = {site.name: site.k for site in sites if site.k}
    assert len(set(ranks.values())) > 1
    assert len(ranks) < len(sites)
    export_peft(sites, tmp_path, "some/base")
    loaded = peft.PeftModel.from_pretrained(host(), tmp_path).eval()
    modules = loaded.base_model.model.named_modules()
    loaded_ranks = {
        name: module.r["default"] for name, module in modules if hasattr(module, "lora_A")
    }
    assert loaded_ranks == ranks
    expected = output(model, tokens())
    torch.testing.assert_close(output(loaded, tokens()), expected, atol=1e-5, rtol=1e-5)
