"""Loading a backbone: kind, fingerprint, clones and invalid models."""

import json

import pytest
import torch
from architectures import backbone, batch, last_hidden
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import SIZES, tiny_bert, tiny_llama
from torch import nn

from bayeslora.adapters.inject import inject
from bayeslora.adapters.lora import LoRA
from bayeslora.backbones import load
from bayeslora.backbones.load import fingerprint, load_backbone
from bayeslora.errors import InputError

WEIGHTS = "model.safetensors"


def loaded(path, dtype="float32"):
    return load_backbone(str(path), dtype=dtype, device="cpu")


@pytest.mark.parametrize(("builder", "kind"), [(tiny_bert, "encoder"), (tiny_llama, "decoder")])
def test_a_directory_becomes_a_frozen_backbone(tmp_path, builder, kind):
    host = loaded(builder(tmp_path / "model"))
    assert host.kind == kind
    assert host.num_features == SIZES["hidden_size"]
    assert host.device == torch.device("cpu")
    assert not host.model.training
    assert not any(item.requires_grad for item in host.model.parameters())
    assert host.tokenizer.pad_token == "[PAD]"


@pytest.mark.parametrize(
    ("dtype", "weights", "again"),
    [
        ("float32", torch.float32, "float32"),
        ("bfloat16", torch.bfloat16, "bfloat16"),
        ("auto", torch.bfloat16, "bfloat16"),
    ],
)
def test_dtypes(tmp_path, monkeypatch, dtype, weights, again):
    monkeypatch.setattr(load, "computes_in_bfloat16", lambda _: True)
    host = loaded(tiny_llama(tmp_path / "model"), dtype)
    assert next(host.model.parameters()).dtype == weights
    assert host.cache_dtype == weights
    assert host.dtype == again


@pytest.mark.parametrize("builder", [tiny_bert, tiny_llama])
def test_the_fingerprint_names_the_weights_in_every_dtype(tmp_path, builder):
    path = builder(tmp_path / "model")
    first = loaded(path).fingerprint
    assert len(first) == 32
    # A pooler that is missing from the file is random and not part of the fingerprint.
    torch.manual_seed(99)
    assert loaded(path).fingerprint == first
    assert loaded(path, "bfloat16").fingerprint == first
    assert loaded(builder(tmp_path / "other", seed=1)).fingerprint != first


@given(row=st.integers(0, 79), column=st.integers(0, 63))
def test_the_fingerprint_sees_every_value(row, column):
    layer = nn.Linear(64, 80, bias=False)
    first = fingerprint(layer)
    with torch.no_grad():
        layer.weight[row, column] += 1
    assert fingerprint(layer) != first


def test_missing_weights_are_refused(tmp_path):
    path = tiny_bert(tmp_path / "model")
    tensors = load_file(path / WEIGHTS)
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, path / WEIGHTS, {"format": "pt"})
    with refused("input", "encoder.layer.1.output.dense.weight"):
        loaded(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype, value):
    """Attention on a CPU hides them: all features are finite unless the weights are checked."""
    path = tiny_llama(tmp_path / "model")
    tensors = load_file(path / WEIGHTS)
    name = next(name for name in tensors if name.endswith("layers.1.self_attn.q_proj.weight"))
    tensors[name][2, 3] = value
    save_file(tensors, path / WEIGHTS, {"format": "pt"})
    with refused("damaged", path, "layers.1.self_attn.q_proj.weight"):
        loaded(path, dtype)


def truncate(path):
    weights = path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])


def write(name, content):
    return lambda path: (path / name).write_text(content)


def remove(*names):
    def change(path):
        for name in names:
            (path / name).unlink()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncate, "cannot be loaded: SafetensorError"),
        (remove(WEIGHTS), "cannot be loaded: OSError: Error no file named model.safetensors"),
        (remove("config.json"), "the config cannot be loaded"),
        (write("config.json", "{"), "the config cannot be loaded"),
        (write("config.json", "{}"), "the config cannot be loaded"),
        (write("tokenizer.json", "{"), "the tokenizer cannot be loaded"),
        (
            remove("tokenizer.json", "tokenizer_config.json"),
            "the tokenizer has no vocabulary; its files are missing",
        ),
    ],
)
def test_a_damaged_directory_is_an_input_error(tmp_path, change, message):
    path = tiny_bert(tmp_path / "model")
    change(path)
    with pytest.raises(InputError) as caught:
        loaded(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_encoder_decoders_are_refused(tmp_path):
    from transformers import T5Config

    T5Config().save_pretrained(tmp_path)
    with refused("input", "'t5'"):
        loaded(tmp_path)


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    path = tiny_llama(tmp_path / "model")
    config = json.loads((path / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    assert loaded(path).tokenizer.pad_token == "[SEP]"


def test_a_clone_shares_every_tensor_and_no_module():
    host, _ = backbone("bert")
    clone = host.clone()
    pairs = list(zip(host.model.parameters(), clone.model.parameters(), strict=True))
    assert all(tensor is other for tensor, other in pairs)
    buffers = zip(host.model.buffers(), clone.model.buffers(), strict=True)
    assert all(tensor is other for tensor, other in buffers)
    modules = zip(host.model.modules(), clone.model.modules(), strict=True)
    assert not any(module is other for module, other in modules)
    assert clone.prefix_states is host.prefix_states
    assert (clone.fingerprint, clone.kind) == (host.fingerprint, host.kind)


def test_adapters_of_one_clone_are_invisible_to_the_others():
    host, _ = backbone("llama")
    first, second = host.clone(), host.clone()
    ids, mask = batch()
    before = last_hidden(host.model, ids, mask)
    for site in inject(first.model, LoRA(r=2), seed=0):
        site.B.weight.data.normal_()
    first.model.train()
    assert not torch.allclose(last_hidden(first.model, ids, mask), before)
    assert torch.equal(last_hidden(host.model, ids, mask), before)
    assert torch.equal(last_hidden(second.model, ids, mask), before)
    assert not host.model.training
