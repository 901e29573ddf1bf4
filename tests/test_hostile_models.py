"""Hostile and damaged model directories: refused in a sentence, and none of their code runs."""

import json
import random
import shutil
from contextlib import suppress

import hostile_models
import pytest
from foreign_models import saved_peft
from refusal import refused
from tiny import tiny_bert, tiny_classifier, tiny_llama

from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.peft_classifier import merged_classifier
from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.backbones.tokens import tokenise
from bayeslora.errors import InputError

BACKBONE = hostile_models.of_backbone()
REFUSED = [
    *("quantised: gptq", "quantised: awq", "quantised: bnb", "config.json: hidden_act nope"),
    *("config.json: deep", "config.json: long integer", "config.json: null"),
    *("config.json: hidden_size null", "config.json: hidden_size surrogate"),
    *("config.json: num_attention_heads zero", "config.json: dtype nope"),
    *("config.json: num_hidden_layers 2", "tokenizer.json: loop", "tokenizer.json: deep"),
    *("tokenizer.json: model list", "tokenizer_config.json: model_max_length text"),
    *("tokenizer_config.json: deep", "model.safetensors: huge header"),
    "model.safetensors: dtype",
    *("model.safetensors: header deep", "model.safetensors: header not UTF-8"),
    *("model.safetensors: NaN", "model.safetensors: one lost", "model.safetensors: directory"),
    *("pickled", "torch.save", "index: missing", "index: list"),
]


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


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_backbone_is_refused(copied, case):
    path = copied("llama")
    BACKBONE[case](path)
    with pytest.raises(InputError) as caught:
        load_backbone(str(path), device="cpu")
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (path.parent / "ran").exists()


@pytest.mark.parametrize(
    "case", random.Random(0).sample(sorted(BACKBONE.keys() - set(REFUSED)), 30)
)
def test_a_hostile_backbone_loads_or_is_refused(copied, case):
    path = copied("llama")
    BACKBONE[case](path)
    with suppress(InputError):
        load_backbone(str(path), device="cpu")
    assert not (path.parent / "ran").exists()


@pytest.mark.parametrize(
    ("name", "load"), [("bert", load_backbone), ("classifier", load_sequence_classifier)]
)
def test_a_model_that_cannot_run_is_refused(copied, name, load):
    path = copied(name)
    hostile_models.odd("config.json", "num_attention_heads", "negative")(path)
    with refused("input", "RuntimeError"):
        load(str(path), device="cpu")


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


def test_tokens_beyond_the_embedding_are_refused(copied):
    path = copied("llama")
    hostile_models.more_words(path)
    backbone = load_backbone(str(path), device="cpu")
    with refused("input", "tokens"):
        tokenise(backbone, ["the cat"], max_length=8)


PEFT = hostile_models.of_peft() | hostile_models.of_weights("adapter_model.safetensors")


@pytest.mark.parametrize(
    "case",
    [
        *("adapter_config.json: target_modules (", "adapter_config.json: task_type list"),
        *("adapter_config.json: base_model_name_or_path true", "adapter_config.json: r huge"),
        *("adapter_config.json: rank_pattern [1]", "adapter_config.json: peft_type NOPE"),
        "pickled adapter",
        "adapter_model.safetensors: one lost",
        *("adapter_config.json: init_lora_weights 3",),
    ],
)
def test_a_hostile_checkpoint_is_refused(sources, copied, case):
    path = copied("adapted/peft")
    PEFT[case](path)
    with pytest.raises(InputError):
        merged_classifier(str(path))
    assert not (path.parent / "ran").exists()
