"""A PEFT checkpoint that lost layers is rejected; PEFT itself is the reference for its layers."""

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny_hosts import SIZES, tiny_llama

from bayeslora.adapters.inject import find_sites
from bayeslora.adapters.peft_bridge import load_peft, split_peft

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

CHOICES = {
    "list": {"target_modules": ["q_proj", "v_proj"]},
    "whole path": {"target_modules": ["model.layers.1.mlp.up_proj"]},
    "pattern": {"target_modules": r".*\.(0|2)\.self_attn\.[qk]_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "excluded": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["1.self_attn.q_proj"]},
    "excluded by pattern": {
        "target_modules": ["q_proj", "v_proj"],
        "exclude_modules": r".*\.2\.self_attn\.v_proj",
    },
    "some layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 2]},
    "one layer": {
        "target_modules": ["q_proj"],
        "layers_to_transform": 1,
        "layers_pattern": "layers",
    },
    "lists by a group": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "layers_pattern": "(layers|h)",
    },
    "saved whole": {
        "target_modules": ["q_proj", "up_proj"],
        "modules_to_save": ["model.layers.1.mlp"],
    },
}


def causal_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="the oracle, PEFT, is not installed")


@pytest.fixture(params=CHOICES.values(), ids=CHOICES.keys())
def checkpoint(peft, tmp_path, request):
    wrapped = peft.get_peft_model(causal_llama(), peft.LoraConfig(r=2, **request.param))
    wrapped.save_pretrained(tmp_path)
    return tmp_path


def without(checkpoint, part):
    """Remove the tensors with `part` in their names from a checkpoint."""
    path = checkpoint / "adapter_model.safetensors"
    tensors = load_file(path)
    left = {name: value for name, value in tensors.items() if part not in name}
    assert len(left) < len(tensors)
    save_file(left, path)


def assert_as_before(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_layers_are_those_that_peft_adapts(peft, checkpoint):
    wrapped = peft.PeftModel.from_pretrained(causal_llama(), checkpoint)
    adapted = {
        name.removeprefix("base_model.model.")
        for name, module in wrapped.named_modules()
        if isinstance(module, peft.tuners.lora.layer.LoraLayer)
    }
    assert {site.name for site in load_peft(causal_llama(), checkpoint)} == adapted
    # Also on the backbone alone, whose paths are shorter.
    assert len(load_peft(tiny_llama(), checkpoint)) == len(adapted)


@pytest.mark.parametrize("load", [load_peft, split_peft])
@pytest.mark.parametrize("host", [causal_llama, tiny_llama])
def test_lost_layers_are_named_and_nothing_is_changed(peft, tmp_path, host, load):
    options = {"target_modules": ["q_proj", "v_proj"]}
    peft.get_peft_model(causal_llama(), peft.LoraConfig(r=2, **options)).save_pretrained(tmp_path)
    without(tmp_path, "layers.1.self_attn.v_proj")
    model = host()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with refused("input", "layers.1.self_attn.v_proj'"):
        load(model, tmp_path)
    without(tmp_path, "v_proj")
    with refused("input", "layers.0.self_attn.v_proj'", "2"):
        load(model, tmp_path)
    assert not find_sites(model)
    assert_as_before(model, before)
