"""Checkpoints written by PEFT after starts that change the base model, and patterns."""

import dataclasses
import sys
from types import ModuleType

import pytest
import torch
from refusal import refused
from tiny_hosts import tiny_llama, tokens

from bayeslora.adapters.peft_bridge import load_peft
from bayeslora.testing.adapter import output

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture
def peft(monkeypatch):
    # PEFT's CorDA needs the dataclass of a package that PEFT does not depend on.
    monkeypatch.setitem(sys.modules, "attr", ModuleType("attr"))
    sys.modules["attr"].dataclass = dataclasses.dataclass
    return pytest.importorskip("peft", reason="the oracle, PEFT, is not installed")


def trained(peft, model, start, first=None, **options):
    """Return a PEFT model that began at `start` and then moved; the start is saved to `first`."""
    if start == "corda":
        options["corda_config"] = peft.tuners.lora.config.CordaConfig(corda_method="kpm")
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]} | options,
        init_lora_weights=start,
    )
    if start == "corda":
        from peft.tuners.lora.corda import preprocess_corda

        preprocess_corda(model, config, run_model=lambda: model(torch.arange(1, 25)[None]))
    wrapped = peft.get_peft_model(model, config).eval()
    if first is not None:
        wrapped.peft_config["default"].init_lora_weights = True
        wrapped.save_pretrained(first)
        wrapped.peft_config["default"].init_lora_weights = start
    generator = torch.Generator().manual_seed(0)
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            value.data += 0.1 * torch.randn(value.shape, generator=generator)
    return wrapped


def check(wrapped, directory):
    """Check that our sites on the plain model compute PEFT's outputs and leave it unchanged."""
    model = tiny_llama()
    sites = load_peft(model, directory)
    expected = output(wrapped.base_model.model, tokens())
    assert (expected - output(tiny_llama(), tokens())).abs().max() > 0.01
    # PEFT decomposes in float32, and products are computed in another order.
    torch.testing.assert_close(output(model, tokens()), expected, atol=1e-5, rtol=1e-5)
    return sites


# PEFT warns about the copy of the start that it loads beside the adapter to subtract it.
@pytest.mark.filterwarnings("ignore:.* changes the base weights of the model:UserWarning")
@pytest.mark.filterwarnings("ignore:`corda_config` specified but will be ignored:UserWarning")
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "corda"])
def test_what_peft_converted_is_read(peft, tmp_path, start, use_rslora):
    torch.manual_seed(0)
    wrapped = trained(peft, tiny_llama(), start, tmp_path / "first", use_rslora=use_rslora)
    wrapped.save_pretrained(
        tmp_path / "lora", path_initial_model_for_weight_conversion=str(tmp_path / "first")
    )
    sites = check(wrapped, tmp_path / "lora")
    assert {site.r for site in sites} == {8}
    assert {round(site.scale, 6) for site in sites} == {3.0 if use_rslora else 1.5}


def test_a_start_that_leaves_the_base_alone_is_read(peft, tmp_path):
    wrapped = trained(peft, tiny_llama(), "mica")
    wrapped.save_pretrained(tmp_path)
    check(wrapped, tmp_path)


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda"])
def test_a_start_that_is_lost_is_refused(peft, tmp_path, start):
    trained(peft, tiny_llama(), start).save_pretrained(tmp_path)
    model = tiny_llama()
    with refused("input", "init_lora_weights", f"'{start}'"):
        load_peft(model, tmp_path)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_layers_may_have_ranks_and_scales_of_their_own(peft, tmp_path, use_rslora):
    wrapped = trained(
        peft,
        tiny_llama(),
        True,
        rank_pattern={"v_proj": 2, r"layers\.2\.self_attn\.q_proj": 3},
        alpha_pattern={"layers.1.self_attn.v_proj": 9},
        use_rslora=use_rslora,
    )
    wrapped.save_pretrained(tmp_path)
    sites = {site.name: site for site in check(wrapped, tmp_path)}
    result = [(site.r, round(site.scale, 6)) for site in sites.values()]
    root = 0.5 if use_rslora else 1
    expected = [(4, 6), (2, 6), (4, 6), (2, 9), (3, 6), (2, 6)]
    assert result == [(r, round(alpha / r**root, 6)) for r, alpha in expected]
