"""Depth and template of a classifier in fit, saving, loading, export and prediction."""

import json

import numpy as np
import pytest
from tiny import CLASSES, toy_rows

from bayeslora.backbones.template import DEFAULT_FRAME
from bayeslora.classifier import BayesianClassifier
from bayeslora.cli import main
from bayeslora.errors import InputError

FRAME = "today {text} is a"
ROWS = toy_rows(30)
TEXTS = [row["text"] for row in toy_rows(12, 6)]


def fitted(backbone, **options):
    options = {"depth": 2, "template": FRAME, "dtype": "float32", "progress": False, **options}
    clf = BayesianClassifier(backbone, "lora:r=2", "vbll", **options)
    return clf.fit(ROWS, epochs=1, cv=0)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_model_reads_as_it_was_fitted(backbones, kind, tmp_path):
    clf = fitted(backbones[kind])
    expected = clf.predict(TEXTS).probs
    assert clf.record.backbone["depth"] == 2
    assert clf.record.backbone["template"] == FRAME
    clf.save_pretrained(tmp_path / "model")
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    np.testing.assert_array_equal(again.predict(TEXTS).probs, expected)
    assert (again.plan.depth, again.plan.template) == (clf.plan.depth, clf.plan.template)
    raw = fitted(backbones[kind], template="{text}")
    assert not np.allclose(raw.predict(TEXTS).probs, expected)


def test_a_decoder_is_read_below_its_last_layers_in_a_template(backbones, tmp_path):
    clf = fitted(backbones["llama"], depth=None, template=None, max_length=64)
    reading = {key: clf.record.backbone[key] for key in ("depth", "template")}
    assert reading == {"depth": 2, "template": DEFAULT_FRAME}
    encoder = fitted(backbones["bert"], depth=None, template=None)
    assert not {"depth", "template"} & encoder.record.backbone.keys()
    # A refitted model reads as before, whatever the defaults are by then.
    for classifier in (clf, encoder):
        classifier.save_pretrained(tmp_path / classifier.record.backbone["name"].replace("/", ""))
        path = tmp_path / classifier.record.backbone["name"].replace("/", "")
        again = BayesianClassifier.from_pretrained(path, progress=False).fit(ROWS, epochs=1, cv=0)
        assert again.record.backbone == classifier.record.backbone


@pytest.mark.parametrize("adapter", ["lora:r=2", "none"])
def test_a_pipeline_on_filled_templates_gives_the_mean_networks_probabilities(
    backbones, tmp_path, adapter
):
    options = {"depth": 2, "template": FRAME, "dtype": "float32", "progress": False}
    clf = BayesianClassifier(backbones["llama"], adapter, "map", max_length=12, **options)
    clf.fit(ROWS, **({} if adapter == "none" else {"epochs": 1}))
    clf.export_merged(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 2
    texts = [*TEXTS, " ".join(TEXTS), "unfoldable" * 20]
    expected = clf.predict(texts, num_samples=0).probs
    check_listed_lines(tmp_path / "out", [{"text": text} for text in texts], expected)


def check_listed_lines(model, texts, expected):
    """Run exactly the lines in the README of an exported model."""
    shown = (model / "README.md").read_text().split("```")[1].removeprefix("python\n")
    *before, last = shown.strip().replace("PATH OF THIS DIRECTORY", str(model)).splitlines()
    names = {}
    exec("\n".join(before), names)
    for variables, probs in zip(texts, expected, strict=True):
        (row,) = eval(last, names, variables)
        scores = {item["label"]: item["score"] for item in row}
        np.testing.assert_allclose([scores[name] for name in CLASSES], probs, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"depth": 4}, {"template": "today the a"}, {"depth": 0}, {"max_length": 3}]
)
def test_what_cannot_be_read_is_refused(backbones, options):
    with pytest.raises(InputError):
        fitted(backbones["llama"], **options)


def test_the_command_asks_the_language_model(backbones, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in ROWS))
    fit = ["fit", str(data), "--adapter", "lora:r=2", "--quiet", "--epochs", "1"]
    fit += ["--set", "dtype=float32", "--template", "{text} is"]
    llama, names = ["--backbone", backbones["llama"]], ["--verbaliser", "names"]
    config = tmp_path / "run.yaml"
    config.write_text("verbaliser: {animals: dog, food: bread}\n")
    words = ["--verbaliser", "animals=dog", "--verbaliser", "food=bread"]
    factors = []
    for place, more in enumerate((names, words, ["--config", str(config)])):
        assert main([*fit, *llama, *more, "--out", str(tmp_path / f"m{place}")]) == 0
        record = json.loads((tmp_path / f"m{place}" / "bayeslora.json").read_text())
        factors.append(record["results"]["prior_factor"])
    assert factors[0] != factors[1] == factors[2]
    for bad in ("animals", "=dog", "animals= ", "sports=goal"):
        assert main([*fit, *llama, "--verbaliser", bad, "--out", str(tmp_path / "bad")]) == 2
    for both in (["none", "names"], ["animals=dog", "animals=cat"]):
        options = [part for text in both for part in ("--verbaliser", text)]
        assert main([*fit, *llama, *options, "--out", str(tmp_path / "bad")]) == 2
    encoder = ["--backbone", backbones["bert"]]
    assert main([*fit, *encoder, *names, "--out", str(tmp_path / "bad")]) == 2
    assert not (tmp_path / "bad").exists()
