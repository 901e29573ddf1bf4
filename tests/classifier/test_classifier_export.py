"""Networks with merged adapters: transformers loads them with the outputs of the mean network."""

import shutil

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import CLASSES, QUICK_VBLL, WHOLE_AND_RAW, toy_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bayeslora.classifier import BayesianClassifier

ROWS = toy_rows(20, 6)
TEXTS = [row["text"] for row in ROWS]


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
        ("pissa:r=4,lr=5e-3", "swag:num_samples=2,start=0.0"),
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
        ("export_peft", "notes", ("exists", "'mine.txt'")),
        ("export_merged", "notes", ("exists", "'mine.txt'")),
        ("export_merged", "backbone", ("input", "backbone is an input")),
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


def test_what_is_not_one_linear_network_is_refused(tmp_path, fitted, monkeypatch):
    ensemble = fitted("llama", "lora:r=2", "ensemble:num_members=2")
    for export in (ensemble.export_merged, ensemble.export_peft):
        with refused("several-networks", "2 networks"):
            export(tmp_path / "out")
    with refused("input", "no classifier of transformers", "decoder"):
        fitted("bert", "lora:r=2").export_merged(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    clf = fitted("llama", "lora:r=2", "laplace")
    head = clf.network.head
    known = head.predict
    monkeypatch.setattr(
        head, "predict", lambda rows: known(rows.map(lambda values: values.square() + 1))
    )
    with refused("input", "'laplace'"):
        clf.export_merged(tmp_path / "out")
    assert not (tmp_path / "out").exists()
