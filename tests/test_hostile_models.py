"""Hostile and damaged model directories: refused in a sentence, and none of their code runs.

A case is a function that spoils a directory in place.
"""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from foreign_models import saved_peft
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import tiny_bert, tiny_classifier, tiny_llama

from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.sequence import load_sequence_classifier, merged_classifier
from bayeslora.errors import InputError

WEIGHTS, ADAPTER, CONFIG = "model.safetensors", "adapter_model.safetensors", "config.json"
PEFT_CONFIG = "adapter_config.json"


def put(name, content):
    """Return a function that replaces a file by bytes or text."""
    content = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(content)


def value(name, key, text):
    """Return a function that sets a value of a JSON file to JSON text without parsing it."""

    def change(folder):
        content = json.loads((folder / name).read_text()) | {key: "@@"}
        (folder / name).write_text(json.dumps(content).replace('"@@"', text))

    return change


def swap(name, make):
    """Return a function that replaces a file by something that is not a regular file."""

    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


def tensors(name, edit):
    def change(folder):
        state = load_file(folder / name)
        edit(state)
        save_file(state, folder / name, metadata={"format": "pt"})

    return change


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def pickled(name, weights):
    def change(folder):
        (folder / weights).unlink()
        (folder / name).write_bytes(pickle.dumps({"weight": Marker(folder.parent / "ran")}))

    return change


def torch_file(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def index(weight_map):
    """Return a function that replaces a directory's weight file by an index of weight files."""

    def change(folder):
        (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
        content = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / f"{WEIGHTS}.index.json").write_text(content)

    return change


def spoil(state):
    state[max(state)].view(-1)[0] = float("nan")


def lose(state):
    del state[max(state)]


BACKBONE = {
    **{
        f"quantised: {method}": value(CONFIG, "quantization_config", json.dumps(config))
        for method, config in {
            "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
            "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
            "bnb": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        }.items()
    },
    **{
        f"{key} {text}": value(CONFIG, key, text)
        for key, text in [
            *(("hidden_act", '"nope"'), ("hidden_size", "null"), ("hidden_size", '"\\ud800"')),
            *(("num_attention_heads", "0"), ("dtype", '"nope"'), ("num_hidden_layers", "2")),
        ]
    },
    "config null": put(CONFIG, "null"),
    "tokenizer without a model": value("tokenizer.json", "model", "[]"),
    "huge header": put(WEIGHTS, struct.pack("<Q", 1 << 62) + b"{}"),
    "NaN": tensors(WEIGHTS, spoil),
    "a tensor lost": tensors(WEIGHTS, lose),
    "weights a directory": swap(WEIGHTS, Path.mkdir),
    "pickled": pickled("pytorch_model.bin", WEIGHTS),
    "torch.save": torch_file,
    "index of missing files": index({"a": "missing.safetensors"}),
    "index of a list": index([]),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    tiny_llama(folder / "llama")
    tiny_bert(folder / "bert")
    tiny_classifier(folder / "classifier")
    saved_peft("bert", folder / "adapted")
    return folder


@pytest.fixture
def copied(sources, tmp_path):
    return lambda name: shutil.copytree(sources / name, tmp_path / "model")


@pytest.mark.parametrize("case", BACKBONE)
def test_a_hostile_backbone_is_refused(copied, case):
    path = copied("llama")
    BACKBONE[case](path)
    with pytest.raises(InputError) as caught:
        load_backbone(str(path), device="cpu")
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (path.parent / "ran").exists()


def cut(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))


@pytest.mark.parametrize(
    ("name", "load", "tensor"),
    [
        ("llama", lambda path: load_backbone(str(path), device="cpu"), "layers.1"),
        ("bert", lambda path: load_backbone(str(path), device="cpu"), "encoder.layer.1"),
        ("classifier", lambda path: load_sequence_classifier(str(path)), "encoder.layer.1"),
    ],
)
def test_weights_that_the_configuration_leaves_out_are_named(copied, name, load, tensor):
    path = copied(name)
    load(path)  # unused heads of another task are allowed
    cut(path)
    with refused("input", tensor):
        load(path)


def test_so_are_those_of_a_checkpoints_base(tmp_path):
    path, _ = saved_peft("bert", tmp_path)
    cut(tmp_path / "base")
    with refused("input", "encoder.layer.1"):
        merged_classifier(str(path))


PEFT = {
    **{
        f"{key} {text}": value(PEFT_CONFIG, key, text)
        for key, text in [
            *(("target_modules", '"("'), ("task_type", "[]"), ("peft_type", '"NOPE"')),
            *(("base_model_name_or_path", "true"), ("r", "1000000000000")),
            *(("rank_pattern", "[1]"), ("init_lora_weights", "3")),
        ]
    },
    "pickled adapter": pickled("adapter_model.bin", ADAPTER),
    "a tensor lost": tensors(ADAPTER, lose),
}


@pytest.mark.parametrize("case", PEFT)
def test_a_hostile_checkpoint_is_refused(sources, copied, case):
    path = copied("adapted/peft")
    PEFT[case](path)
    with pytest.raises(InputError):
        merged_classifier(str(path))
    assert not (path.parent / "ran").exists()
