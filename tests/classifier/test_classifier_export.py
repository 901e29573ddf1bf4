"""Networks with merged adapters: transformers loads them with the outputs of the mean network."""

import json
import shutil

import numpy as np
import pytest
import torch
from refusal import refused
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import CLASSES, QUICK_VBLL, WHOLE_AND_RAW, tiny_bert, tiny_llama, toy_rows
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from bayeslora.classifier import BayesianClassifier
from bayeslora.engine.fitted import export as merged

ROWS = toy_rows(20, 6)
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return {"llama": str(tiny_llama(folder / "llama")), "bert": str(tiny_bert(folder / "bert"))}


@pytest.fixture(scope="module")
def fitted(backbones, tmp_path_factory):
    """Return a function that fits an adapter and a posterior on a backbone, once each."""
    known = {}

    def get(backbone, adapter, posterior="mle"):
        key = (backbone, adapter, posterior)
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("BAYESLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
                clf = BayesianClassifier(
                    backbones[backbone],
                    adapter,
                    posterior,
                    dtype="float32",
                    progress=False,
                    **WHOLE_AND_RAW,
                )
                held_out = toy_rows(18, 1) if posterior == "temperature" else None
                known[key] = clf.fit(toy_rows(30), held_out, epochs=2, batch_size=8)
        return known[key]

    return get


def mean_logits(clf):
    """Return logits centred over classes: probabilities determine them only up to a shift."""
    logits = np.log(clf.predict(ROWS, num_samples=0).probs)
    return torch.from_numpy(logits - logits.mean(1, keepdims=True))


def centred(logits):
    logits = logits.detach().double()
    return logits - logits.mean(1, keepdim=True)


def inputs_for(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [
        ("polar:r=4,num_layers=2", QUICK_VBLL),
        ("lora:r=2,use_rslora=true", "temperature"),
        ("lora:r=2", "laplace"),
        ("pissa:r=4,lr=5e-3", "map"),
        ("corda:r=4,lr=5e-3", "swag:num_samples=2,start=0.0"),
        ("s2ft:o_ratio=0.3,d_ratio=0.2,lr=5e-3", "laplace"),
        ("emtal:r=4,num_experts=4,lr=5e-3", QUICK_VBLL),
    ],
)
def test_a_decoder_is_a_classifier_of_transformers(tmp_path, fitted, adapter, posterior):
    clf = fitted("llama", adapter, posterior)
    clf.export_merged(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert not any("A0" in name or ".core" in name for name in model.state_dict())
    assert tuple(model.config.id2label.values()) == CLASSES
    # The same float32 products, summed in another order.
    result = centred(model(**inputs_for(tmp_path / "out")).logits)
    torch.testing.assert_close(result, mean_logits(clf), atol=1e-5, rtol=1e-5)
    again = BayesianClassifier.from_transformers(str(tmp_path / "out"), "mle", progress=False)
    expected = clf.predict(ROWS, num_samples=0).probs
    np.testing.assert_allclose(again.predict(ROWS).probs, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("export", "place", "refusal"),
    [
        ("export_peft", "notes", ("exists", "PEFT", "'mine.txt'")),
        ("export_merged", "notes", ("exists", "transformers", "'mine.txt'")),
        ("export_merged", "backbone", ("input", "backbone is an input")),
        ("export_safetensors", "notes", ("input", ".safetensors")),
    ],
)
def test_only_exports_of_the_kind_are_replaced(tmp_path, backbones, export, place, refusal):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    home = shutil.copytree(backbones["llama"], tmp_path / "backbone")
    clf = BayesianClassifier(str(home), "lora:r=2", "mle", progress=False).fit(ROWS, epochs=1)
    before = sorted(tmp_path.rglob("*"))
    with refused(*refusal):
        getattr(clf, export)(tmp_path / place, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pipeline_gives_the_mean_networks_probabilities(tmp_path, fitted):
    clf = fitted("llama", "polar:r=4,num_layers=2", QUICK_VBLL)
    clf.export_merged(tmp_path / "out")
    classify = pipeline("text-classification", str(tmp_path / "out"), top_k=None, device="cpu")
    expected = clf.predict(TEXTS, num_samples=0)
    for answers, row in zip(classify(TEXTS), expected, strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert scores == pytest.approx(dict(row.probs), abs=1e-5)


def test_a_model_whose_last_layer_no_classifier_reads_is_refused(tmp_path, fitted, monkeypatch):
    """transformers would load it with a random last layer."""
    with refused("input", "encoder", "safetensors"):
        fitted("bert", "pissa:r=4,lr=5e-3").export_merged(tmp_path / "out")
    monkeypatch.setattr(merged, "_takes", lambda *_: False)
    with refused("input", "LlamaModel", "safetensors"):
        fitted("llama", "lora:r=2", "laplace").export_merged(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backbone", ["llama", "bert"])
def test_one_file_holds_all_tensors(tmp_path, fitted, backbone):
    clf = fitted(backbone, "pissa:r=4,lr=5e-3", "map" if backbone == "llama" else "mle")
    path = tmp_path / "model.safetensors"
    clf.export_safetensors(path)
    with safe_open(str(path), "pt") as file:
        note = json.loads(file.metadata()["bayeslora"])
    tensors = load_file(path)
    head = tensors.pop("head.weight")
    model = AutoModel.from_pretrained(clf.record.backbone["name"]).eval()
    plain = {name.removeprefix("backbone."): item for name, item in tensors.items()}
    model.load_state_dict(plain)
    assert note["config"]["model_type"] == backbone
    inputs = inputs_for(clf.record.backbone["name"])
    states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"]
    if note["pooling"] == "last real token":
        features = states[torch.arange(len(states)), mask.sum(1) - 1]
    else:
        features = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(centred(features @ head.T), mean_logits(clf), atol=1e-5, rtol=1e-5)
    with refused("exists", "model.safetensors"):
        clf.export_safetensors(path)


def test_exporting_leaves_the_classifier_as_it_was(tmp_path, fitted):
    clf = fitted("llama", "pissa:r=4,lr=5e-3", "map")
    before, fingerprint = clf.predict(ROWS).probs, clf.network.files().fingerprint
    clf.export_merged(tmp_path / "out")
    assert (clf.predict(ROWS).probs == before).all()
    assert clf.network.files().fingerprint == fingerprint
    assert clf.network.sites


def test_members_of_an_ensemble_leave_one_by_one(tmp_path, fitted):
    ensemble = fitted("llama", "lora:r=2", "ensemble:num_members=2")
    expected = ensemble.predict(ROWS).probs
    probs, adapters = [], []
    for member in (1, 2):
        path = tmp_path / str(member)
        ensemble.export_merged(path, member=member)
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            probs.append(model(**inputs_for(path)).logits.double().softmax(1))
        ensemble.export_peft(tmp_path / f"peft-{member}", member=member)
        adapters.append(load_file(tmp_path / f"peft-{member}" / "adapter_model.safetensors"))
    np.testing.assert_allclose(torch.stack(probs).mean(0), expected, atol=1e-5)
    assert any(not torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert (ensemble.predict(ROWS).probs == expected).all()


def test_what_is_not_one_linear_network_is_refused(tmp_path, fitted, monkeypatch):
    ensemble = fitted("llama", "lora:r=2", "ensemble:num_members=2")
    for export, name in (
        (ensemble.export_merged, "out"),
        (ensemble.export_peft, "out"),
        (ensemble.export_safetensors, "out.safetensors"),
    ):
        with refused("several-networks", "member"):
            export(tmp_path / name)
        with refused("input", "member", "1 to 2", "3"):
            export(tmp_path / name, member=3)
        assert not (tmp_path / name).exists()
    clf = fitted("llama", "lora:r=2", "laplace")
    head = clf.network.head
    known = head.predict
    monkeypatch.setattr(
        head, "predict", lambda rows: known(rows.map(lambda values: values.square() + 1))
    )
    with refused("input", "'laplace'"):
        clf.export_merged(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("origin", ["owner/tiny-llama", "/home/somebody/llama", None])
def test_peft_names_a_base_that_is_found_elsewhere_or_says_which_is_needed(
    tmp_path, fitted, backbones, monkeypatch, origin
):
    from peft import AutoPeftModelForFeatureExtraction, PeftModel

    clf, base = fitted("llama", "lora:r=2"), tmp_path / "owner" / "tiny-llama"
    shutil.copytree(backbones["llama"], base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"_name_or_path": origin}))
    clf.save_pretrained(tmp_path / "m")
    moved = BayesianClassifier.from_pretrained(tmp_path / "m", backbone=base, progress=False)
    exported = moved.export_peft(tmp_path / "e")
    named = json.loads((tmp_path / "e" / "adapter_config.json").read_text())
    is_hub_id = origin == "owner/tiny-llama"
    assert named["base_model_name_or_path"] == (origin if is_hub_id else str(base))
    assert any(str(base) in note for note in exported.notes)
    assert str(base) in (tmp_path / "e" / "README.md").read_text()
    plain = AutoModel.from_pretrained(base, dtype=torch.float32)
    expected = PeftModel.from_pretrained(plain, tmp_path / "e")
    monkeypatch.chdir(tmp_path)  # where the id is a directory, and elsewhere a hub id
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # PEFT requests a missing tokenizer from the hub
    loaded = AutoPeftModelForFeatureExtraction.from_pretrained("e", dtype=torch.float32)
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens)[0], expected(tokens)[0])
