"""The configuration of adapters exported to PEFT."""

import json

import pytest
from tiny import WHOLE_AND_RAW, tiny_bert, tiny_llama, toy_rows

from bayeslora.backbones import embedded
from bayeslora.classifier import BayesianClassifier
from bayeslora.engine.export import README


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return classifiers on a decoder and an encoder, and their backbones' directories."""
    folder = tmp_path_factory.mktemp("peft-export")
    places = {"llama": str(tiny_llama(folder / "llama")), "bert": str(tiny_bert(folder / "bert"))}
    fits = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYESLORA_CACHE", str(folder / "cache"))
        for kind, place in places.items():
            clf = BayesianClassifier(
                place, "lora:r=2", "mle", dtype="float32", progress=False, **WHOLE_AND_RAW
            )
            fits[kind] = clf.fit(toy_rows(24), epochs=1)
    return fits, places


def settings(directory):
    return json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_an_adapter_without_a_last_layer_is_loaded_by_its_task(models, tmp_path, kind):
    peft = pytest.importorskip("peft")
    fits, places = models
    fits[kind].export_peft(tmp_path / "lora")
    config = settings(tmp_path / "lora")
    assert (config["task_type"], config["base_model_name_or_path"]) == (
        "FEATURE_EXTRACTION",
        places[kind],
    )
    theirs = peft.AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "lora").eval()
    encoder = fits[kind].network.encoder
    batch = encoder.prepare(["the cat barks today"]).tokens.pad([0])
    states = theirs(**{k: batch[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
    states = states.mean(1) if kind == "bert" else states[:, -1]
    assert states[0].tolist() == pytest.approx(
        encoder.features(encoder.prepare(["the cat barks today"]))[0].tolist(), abs=1e-5
    )
    note = (tmp_path / "lora" / README).read_text(encoding="utf-8")
    assert places[kind] in note


def test_an_embedded_backbone_is_named_by_its_hub_id(models, tmp_path, monkeypatch):
    fits, places = models
    monkeypatch.setitem(
        embedded.EMBEDDED_MODELS,
        "small",
        embedded.EmbeddedModel("none", "none", "file", "", "owner/small", "decoder", "fewer bits"),
    )
    clf = fits["llama"]
    monkeypatch.setitem(clf.record.backbone, "name", "small")
    clf.export_peft(tmp_path / "lora")
    assert settings(tmp_path / "lora")["base_model_name_or_path"] == "owner/small"
    assert "fewer bits" in (tmp_path / "lora" / README).read_text(encoding="utf-8")
    for file in (tmp_path / "lora").iterdir():
        assert places["llama"].encode() not in file.read_bytes()
