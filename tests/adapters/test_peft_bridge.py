"""Exchange with PEFT, the oracle for both directions and for the layers of a checkpoint."""

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny_hosts import SIZES, tiny_bert, tiny_llama, tokens

from bayeslora.adapters.inject import adapter_state, find_sites, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.peft_bridge import export_peft, load_peft, peft_adapter, split_peft
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR
from bayeslora.testing.adapter import output, randomise, stack

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


def causal_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2))
    model.model.load_state_dict(tiny_llama().state_dict())
    return model.eval()


def classifier_bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))
    model.bert.load_state_dict(tiny_bert().state_dict())
    return model.eval()


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


@pytest.mark.parametrize(
    ("host", "whole", "inner"),
    [(tiny_llama, causal_llama, "model"), (tiny_bert, classifier_bert, "bert")],
)
def test_a_prefix_addresses_the_larger_model(peft, tmp_path, host, whole, inner):
    model = host()
    export_peft(trained(model, CONFIGS[0]), tmp_path, prefix=f"{inner}.")
    loaded = peft.PeftModel.from_pretrained(whole(), tmp_path).eval()
    backbone = getattr(loaded.base_model.model, inner)
    expected = output(model, tokens())
    torch.testing.assert_close(output(backbone, tokens()), expected, atol=1e-5, rtol=1e-5)


def save_with_peft(peft, model, directory, **options):
    """Save a PEFT model whose second factors are not zero, and return its outputs."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], **options)
    wrapped = peft.get_peft_model(model, config).eval()
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            value.data = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    wrapped.save_pretrained(directory)
    return wrapped


@pytest.mark.parametrize("use_rslora", [False, True])
def test_we_load_what_peft_saved(peft, tmp_path, use_rslora):
    wrapped = save_with_peft(
        peft, causal_llama(), tmp_path, use_rslora=use_rslora, layers_to_transform=[1, 2]
    )
    model = causal_llama()
    sites = load_peft(model, tmp_path)
    assert len(sites) == 4
    assert sites[0].scale == pytest.approx(6 / 2 if use_rslora else 6 / 4)
    with torch.no_grad():
        expected = wrapped(tokens()).logits
        torch.testing.assert_close(model(tokens()).logits, expected, atol=1e-5, rtol=1e-5)


def test_modules_saved_whole_are_loaded(peft, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    wrapped = peft.get_peft_model(classifier_bert(), config).eval()
    head = wrapped.base_model.model.classifier.modules_to_save["default"]
    head.weight.data.fill_(0.5)
    wrapped.save_pretrained(tmp_path)
    model = classifier_bert()
    load_peft(model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()).logits, wrapped(tokens()).logits)
    assert len(load_peft(tiny_bert(), tmp_path)) == 3


@every
def test_round_trip(tmp_path, config):
    model = tiny_llama()
    sites = trained(model, config)
    export_peft(sites, tmp_path, prefix="model.")
    other = tiny_llama()
    loaded = load_peft(other, tmp_path)
    assert [site.name for site in loaded] == [site.name for site in sites]
    assert loaded[0].scale == sites[0].scale
    torch.testing.assert_close(
        output(other, tokens()), output(model, tokens()), atol=1e-5, rtol=1e-5
    )


def test_read_returns_what_was_written(tmp_path):
    model = stack()
    sites = trained(model, LoRA(r=2, alpha=3.0, dropout=0.1, target_modules=("layers.0", "head")))
    export_peft(sites, tmp_path, "some/base")
    assert peft_adapter(tmp_path) == LoRA(
        r=2, alpha=3.0, dropout=0.1, target_modules=("head", "layers.0"), num_layers=None
    )
    result, expected = adapter_state(load_peft(stack(), tmp_path)), adapter_state(sites)
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.fixture
def checkpoint(tmp_path):
    export_peft(trained(stack(), LoRA(r=2, target_modules=("head",))), tmp_path)
    return tmp_path


def test_a_missing_factor_is_named(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.head.lora_B.weight"]
    save_file(tensors, path)
    with refused("input", "'head'", "'A'"):
        load_peft(stack(), checkpoint)


def test_a_layer_that_the_model_lacks_is_named(checkpoint):
    model = tiny_llama()
    with refused("input", "'head'"):
        load_peft(model, checkpoint)
    assert not find_sites(model)


def test_a_layer_of_another_shape_is_named(checkpoint):
    model = stack()
    model.head = torch.nn.Linear(6, 5)
    with refused("input", "'head'", "[4, 2]", "[5, 2]"):
        load_peft(model, checkpoint)
    assert not find_sites(model)


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


@pytest.fixture(params=CHOICES.values(), ids=CHOICES.keys())
def chosen(peft, tmp_path, request):
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


def test_layers_are_those_that_peft_adapts(peft, chosen):
    wrapped = peft.PeftModel.from_pretrained(causal_llama(), chosen)
    adapted = {
        name.removeprefix("base_model.model.")
        for name, module in wrapped.named_modules()
        if isinstance(module, peft.tuners.lora.layer.LoraLayer)
    }
    assert {site.name for site in load_peft(causal_llama(), chosen)} == adapted
    # Also on the backbone alone, whose paths are shorter.
    assert len(load_peft(tiny_llama(), chosen)) == len(adapted)


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
