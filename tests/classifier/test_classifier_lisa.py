"""Layer sampling end to end: whole layers and adapters, from the fit to the file."""

import json

import numpy as np
import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import WHOLE_AND_RAW, tiny_llama, toy_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bayeslora.checkpoint import read_model
from bayeslora.classifier import BayesianClassifier

WHOLE = "lisa:num_active=1,interval=3,num_layers=2,lr=1e-3"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("lisa") / "llama"))


def fresh(backbone, adapter=WHOLE, posterior="mle", **options):
    return BayesianClassifier(
        backbone,
        adapter,
        posterior,
        dtype="float32",
        max_length=32,
        progress=False,
        **WHOLE_AND_RAW,
        **options,
    )


def fitted(backbone, adapter=WHOLE, posterior="mle", **options):
    return fresh(backbone, adapter, posterior).fit(
        toy_rows(30), toy_rows(18, 1), epochs=2, batch_size=8, **options
    )


def test_the_file_holds_the_layers_that_trained_and_the_record_says_which(backbone, tmp_path):
    clf = fitted(backbone, f"{WHOLE},mode=fixed", out=tmp_path / "model")
    (block, *_) = clf.record.results["layer_sampling"]["blocks"]
    (layer,) = block
    names = set(read_model(tmp_path / "model").adapter)
    heads = {".".join(name.split(".")[:3]) for name in names}
    assert heads == {f"adapter.layers.{layer + 1}", "adapter.norm.weight"}
    stored = json.loads((tmp_path / "model" / "bayeslora.json").read_text())
    assert stored["adapter"]["mode"] == "fixed"
    assert stored["results"]["layer_sampling"]["layers"] == ["layers.1", "layers.2"]
    assert stored["results"]["adapter"]["num_layers"] == 1


def test_other_classifiers_on_the_same_backbone_stay_as_they_were(backbone):
    from bayeslora.backbones.load import load_backbone

    shared = load_backbone(backbone, dtype="float32", device="cpu")
    other = fresh(shared, "lora:r=2,num_layers=2").fit(toy_rows(30), epochs=1)
    before = other.predict(toy_rows(9)).probs
    clf = fresh(shared).fit(toy_rows(30), epochs=1)
    assert (other.predict(toy_rows(9)).probs == before).all()
    alone = fresh(backbone).fit(toy_rows(30), epochs=1)
    assert (clf.predict(toy_rows(9)).probs == alone.predict(toy_rows(9)).probs).all()


def test_merged_is_the_mean_network_and_a_lora_it_is_not(backbone, tmp_path):
    clf = fitted(backbone)
    with refused("input", "export_merged"):
        clf.export_peft(tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    clf.export_merged(tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    texts = [row["text"] for row in toy_rows(9, 5)]
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        probs = model(**inputs).logits.double().softmax(1).numpy()
    expected = clf.predict(toy_rows(9, 5), num_samples=0).probs
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    clf.export_safetensors(tmp_path / "one.safetensors")
    layer = clf.spectrum()[0][0].name
    stored = load_file(tmp_path / "one.safetensors")[f"backbone.{layer}.weight"]
    assert torch.equal(stored, model.base_model.get_submodule(layer).weight)
