"""Exchange with PEFT, the oracle for both directions."""

import sys

import pytest
import torch
from refusal import refused
from tiny_hosts import tiny_bert, tiny_llama, tokens

from bayeslora.adapters.inject import find_sites, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.peft_bridge import export_peft, peft_adapter, split_peft
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR
from bayeslora.testing.adapter import output, randomise

# PEFT reads an attribute of transformers by a deprecated name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="the oracle, PEFT, is not installed")


def trained(model, config):
    sites = inject(model, config, seed=0)
    randomise(sites)
    return sites


CONFIGS = [
    PoLAR(r=4, num_layers=2),
    LoRA(r=3, alpha=7.0, num_layers=2),
    PiSSA(r=3, alpha=4.0, num_layers=2),
]
every = pytest.mark.parametrize("config", CONFIGS, ids=["polar", "lora", "pissa"])


@pytest.mark.parametrize("host", [tiny_llama, tiny_bert])
@every
def test_peft_loads_our_export(peft, tmp_path, host, config):
    model = host()
    sites = trained(model, config)
    export_peft(sites, tmp_path, "some/base")
    loaded = peft.PeftModel.from_pretrained(host(), tmp_path).eval()
    adapted = [n for n, m in loaded.base_model.model.named_modules() if hasattr(m, "lora_A")]
    assert adapted == [site.name for site in sites]
    # float32 products are computed in another order.
    expected = output(model, tokens())
    torch.testing.assert_close(output(loaded, tokens()), expected, atol=1e-5, rtol=1e-5)


def merged_by_peft(peft, directory, model, **options):
    """Save a checkpoint whose factors are not zero; return its outputs and the merged model."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]} | options
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            value.data += 0.1 * torch.randn(value.shape, generator=generator)
    wrapped.save_pretrained(directory)
    return output(wrapped.base_model.model, tokens()), wrapped.merge_and_unload()


@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_merged_checkpoint_is_split_into_its_sites(peft, tmp_path, use_rslora):
    expected, model = merged_by_peft(
        peft,
        tmp_path,
        tiny_llama(),
        use_rslora=use_rslora,
        rank_pattern={"v_proj": 2, r"layers\.2\.self_attn\.q_proj": 3},
        alpha_pattern={"layers.1.self_attn.v_proj": 9},
    )
    sites = split_peft(model, tmp_path)
    # float32 products are computed in another order.
    torch.testing.assert_close(output(model, tokens()), expected, atol=1e-5, rtol=1e-5)
    root = 0.5 if use_rslora else 1
    scales = [(4, 6), (2, 6), (4, 6), (2, 9), (3, 6), (2, 6)]
    assert [(site.r, site.scale) for site in sites] == [
        (r, pytest.approx(alpha / r**root)) for r, alpha in scales
    ]
    plain = tiny_llama()
    for site in sites:
        weight = plain.get_submodule(site.name).weight
        torch.testing.assert_close(site.weight, weight, atol=1e-6, rtol=0)
    adapter = peft_adapter(tmp_path)
    assert (adapter.r, adapter.alpha, adapter.use_rslora) == (4, 6, use_rslora)
    assert set(adapter.target_modules) == {site.name for site in sites}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "lora_A"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4'"),
    ],
)
def test_other_loras_are_refused_and_nothing_is_changed(peft, tmp_path, options, named):
    _, model = merged_by_peft(peft, tmp_path, tiny_llama(), **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with refused("input", tmp_path, named):
        split_peft(model, tmp_path)
    assert not find_sites(model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_reading_needs_peft(tmp_path, monkeypatch):
    export_peft(trained(tiny_llama(), CONFIGS[1]), tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with refused("missing", "bayeslora[peft]"):
        peft_adapter(tmp_path)
