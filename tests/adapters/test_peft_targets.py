"""A PEFT checkpoint that lost layers is rejected; PEFT itself is the reference for its layers."""

import json

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny_hosts import SIZES, tiny_bert, tiny_llama

from bayeslora.adapters.inject import find_sites, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.peft_bridge import export_peft, load_peft, peft_adapter, split_peft
from bayeslora.testing.adapter import randomise, stack

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


def test_a_layer_outside_of_lists_may_be_missing(tmp_path):
    sites = inject(stack(), LoRA(r=2, target_modules=("layers.1", "head"), num_layers=None), seed=0)
    export_peft(sites, tmp_path)
    without(tmp_path, "head")
    assert [site.name for site in load_peft(stack(), tmp_path)] == ["layers.1"]


@pytest.mark.parametrize("tower", ["encoder", "decoder"])
def test_towers_that_were_not_wrapped_may_be_there(tmp_path, tower):
    def towers(names):
        return torch.nn.ModuleDict({name: stack() for name in names})

    config = LoRA(r=2, target_modules=(r"layers.0", "layers.1", "layers.2"), num_layers=None)
    export_peft(inject(towers([tower]), config, seed=0), tmp_path)
    options = tmp_path / "adapter_config.json"
    content = json.loads(options.read_text()) | {"target_modules": ["0", "1", "2"]}
    options.write_text(json.dumps(content))
    both = ["encoder", "decoder"]
    assert len(load_peft(towers(both), tmp_path)) == 3
    assert len(load_peft(torch.nn.Sequential(towers(both)), tmp_path)) == 3
    without(tmp_path, f"{tower}.layers.1")
    for model in (towers(both), torch.nn.Sequential(towers(both))):
        with refused("input", f"{tower}.layers.1'"):
            load_peft(model, tmp_path)


def test_a_pooler_around_which_something_is_may_be_there(peft, tmp_path):
    from transformers import BertConfig, BertModel

    plain = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    wrapped = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["dense"]))
    wrapped.save_pretrained(tmp_path)
    for model in (tiny_bert(), torch.nn.Sequential(tiny_bert())):
        assert len(load_peft(model, tmp_path)) == 3 * 3


def test_a_model_of_another_size_is_left_as_it_was(tmp_path):
    sites = inject(stack(), LoRA(r=2, target_modules=("layers.0", "head")), seed=0)
    randomise(sites)
    export_peft(sites, tmp_path)
    model = stack()
    # The second of the two layers fails; the one before it must stay unchanged as well.
    assert peft_adapter(tmp_path).target_modules == ("head", "layers.0")
    model.layers[0] = torch.nn.Linear(5, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with refused("input", "'layers.0'", "[2, 5]"):
        split_peft(model, tmp_path)
    assert not find_sites(model)
    assert_as_before(model, before)
