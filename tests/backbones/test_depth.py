"""Reading a backbone at a lower layer: what transformers computes with fewer layers."""

import pytest
import torch
from refusal import refused
from tiny import tiny_bert, tiny_llama, toy_rows
from transformers import AutoModel

from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.reading import cut, read_at, resolve_depth
from bayeslora.engine.plan import Plan

TEXTS = [row["text"] for row in toy_rows(9, seed=5)]
PATHS = {tiny_llama: "layers", tiny_bert: "encoder.layer"}


def loaded(builder, folder):
    return load_backbone(str(builder(folder / "model")), dtype="float32", device="cpu")


def features(backbone, path, start=0):
    encoder = Encoder(backbone, layers_path=path, start=start, max_length=32)
    return encoder.features(encoder.prepare(TEXTS))


@pytest.mark.parametrize("builder", PATHS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_cut_backbone_is_the_model_with_fewer_layers(builder, layers, tmp_path):
    whole = loaded(builder, tmp_path)
    before = features(whole, PATHS[builder])
    shorter = cut(whole, layers)
    other = AutoModel.from_pretrained(tmp_path / "model", num_hidden_layers=layers).eval()
    tokens = whole.tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = other(**inputs).last_hidden_state
        result = shorter.model(**inputs).last_hidden_state
    real = inputs["attention_mask"].bool()
    # The same operations on the same weights.
    torch.testing.assert_close(result[real], expected[real], atol=1e-6, rtol=0)
    assert shorter.model.config.num_hidden_layers == layers
    assert (shorter.depth, shorter.fingerprint) == (layers, whole.fingerprint)
    # The whole model is unchanged, and the cut model shares its memory.
    torch.testing.assert_close(features(whole, PATHS[builder]), before, atol=0, rtol=0)
    mine = {item.data_ptr() for item in whole.model.parameters()}
    assert {item.data_ptr() for item in shorter.model.parameters()} <= mine


def test_a_depth_is_a_number_or_a_share(tmp_path):
    whole = loaded(tiny_llama, tmp_path)
    assert [resolve_depth(whole, depth) for depth in (1, 3, 1.0, 0.6, 0.01)] == [1, 3, 3, 2, 1]
    assert read_at(whole, 1.0, None) is whole
    with refused("input", "3"):
        resolve_depth(whole, 4)


@pytest.mark.parametrize("depth", [0, -1, 0.0, 1.5, True, "two", float("nan")])
def test_other_depths_are_refused(depth):
    with refused("option", "depth"):
        Plan(depth=depth)
