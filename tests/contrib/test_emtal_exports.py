"""EMTAL end to end: from the fit to the file and to PEFT."""

import pytest
import torch
from refusal import refused
from tiny import WHOLE_AND_RAW, tiny_bert, tiny_llama, toy_rows

from bayeslora.classifier import BayesianClassifier
from bayeslora.engine.fitted.export import mean_layer

ADAPTER = "emtal:r=2,num_experts=4,num_layers=2,lr=2e-2"


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emtal")
    return {"llama": str(tiny_llama(folder / "llama")), "bert": str(tiny_bert(folder / "bert"))}


def fitted(backbone, posterior="mle", adapter=ADAPTER, **options):
    clf = BayesianClassifier(
        backbone,
        adapter,
        posterior,
        dtype="float32",
        max_length=32,
        progress=False,
        **WHOLE_AND_RAW,
    )
    return clf.fit(toy_rows(30), toy_rows(18, 1), epochs=2, batch_size=8, **options)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_peft_loads_the_same_features_without_a_router(backbones, tmp_path, kind):
    from peft import AutoPeftModelForFeatureExtraction

    clf = fitted(backbones[kind])
    clf.export_peft(tmp_path / "peft")
    model = AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "peft").eval()
    assert not any("router" in name or "experts" in name for name in model.state_dict())
    network = clf.network
    batch = network.encoder.probe().collate([0, 1])
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"]
        network.eval()
        expected = network.encoder(batch)
    if kind == "bert":
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    else:
        last = (mask * torch.arange(mask.shape[1])).argmax(1)
        pooled = hidden[torch.arange(len(last)), last]
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
    assert mean_layer(clf.network).shape[0] == 3


def test_experts_that_do_not_divide_the_units_are_refused_before_the_long_work(backbones, tmp_path):
    with refused("input", "num_experts", "24", "16"):
        fitted(backbones["llama"], adapter="emtal:num_experts=16", out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
