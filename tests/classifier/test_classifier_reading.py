"""Depth and template of a classifier in fit, saving, loading, export and prediction."""

import json

import numpy as np
import pytest
import torch
from tiny import CLASSES, tiny_bert, tiny_llama, toy_rows
from transformers import AutoModel, AutoTokenizer

from bayeslora.backbones.template import DEFAULT_FRAME, DEFAULT_PAIR_FRAME
from bayeslora.classifier import BayesianClassifier
from bayeslora.cli import main
from bayeslora.engine import build as auto_depth
from bayeslora.engine.build import evidence
from bayeslora.errors import InputError

FRAME = "today {text} is a"
ROWS = toy_rows(30)
TEXTS = [row["text"] for row in toy_rows(12, 6)]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    return {"llama": str(tiny_llama(folder / "llama")), "bert": str(tiny_bert(folder / "bert"))}


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


def test_only_upper_layers_of_what_is_left_are_adapted(backbones):
    clf = fitted(backbones["llama"])
    layers = {site.name.split(".")[1] for site in clf.network.sites}
    assert layers == {"0", "1"}


def test_models_that_read_everything_say_nothing_of_it(backbones):
    clf = fitted(backbones["llama"], depth=1.0, template="{text}")
    assert not {"depth", "template"} & clf.record.backbone.keys()


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


def test_the_training_rows_choose_the_depth_with_the_most_evidence(backbones):
    rows = toy_rows(200)
    options = {"dtype": "float32", "progress": False, "template": "the {text}", "depth": "auto"}
    clf = BayesianClassifier(backbones["llama"], "none", "map", **options).fit(rows)
    reader = AutoTokenizer.from_pretrained(backbones["llama"])
    labels = torch.tensor([CLASSES.index(row["label"]) for row in rows])
    bounds = {}
    for depth in (2, 3):
        model = AutoModel.from_pretrained(backbones["llama"], num_hidden_layers=depth).eval()
        states = []
        for row in rows:
            tokens = reader([f"the {row['text']}"], return_tensors="pt")
            with torch.no_grad():
                states.append(model(tokens["input_ids"]).last_hidden_state[0, -1])
        bounds[depth] = evidence(torch.stack(states), labels)
    assert bounds[2] != pytest.approx(bounds[3], abs=1e-3)
    best = max(bounds, key=bounds.__getitem__)
    assert clf.record.backbone.get("depth", 3) == best


def test_more_classes_than_rows_that_tell_depths_apart(backbones, monkeypatch):
    monkeypatch.setattr(auto_depth, "_ENOUGH_ROWS", 2)
    clf = fitted(backbones["llama"], depth="auto")
    assert clf.record.backbone.get("depth", 3) in (2, 3)


@pytest.mark.parametrize(("best", "depth"), [(-1.09, 2), (-0.9, 3)])
def test_bounds_that_say_nothing_choose_no_depth(backbones, monkeypatch, caplog, best, depth):
    """For three classes, -1.0986 nats per row are no more than chance."""
    bounds = iter([-1.0986, best])
    monkeypatch.setattr(auto_depth, "evidence", lambda features, labels: next(bounds))
    clf = fitted(backbones["llama"], depth="auto")
    assert clf.record.backbone.get("depth", 3) == depth
    assert ("too few" in caplog.text) == (depth == 2)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_depth_is_chosen_for_the_state_that_is_the_feature(backbones, monkeypatch, pooling):
    seen = []
    monkeypatch.setattr(auto_depth, "evidence", lambda features, _: seen.append(features) or 0.0)
    options = {"depth": "auto", "template": "{text}", "dtype": "float32", "progress": False}
    clf = BayesianClassifier(backbones["llama"], f"none:pooling={pooling}", "map", **options)
    clf.fit(ROWS)
    encoder = clf.network.encoder
    expected = encoder.features(encoder.prepare([row["text"] for row in ROWS]))
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-4)


def test_a_last_layer_alone_reads_higher_than_adapters_would(backbones):
    options = {"template": FRAME, "dtype": "float32", "progress": False}
    clf = BayesianClassifier(backbones["llama"], "none", "vbll", **options).fit(ROWS)
    assert clf.record.backbone.get("depth", 3) == 3


def test_a_template_that_would_take_most_of_the_tokens_is_no_default(backbones, caplog):
    clf = fitted(backbones["llama"], template=None, max_length=4)
    assert "template" not in clf.record.backbone
    assert "no template" in caplog.text


def test_pairs_have_a_default_template_of_their_own(backbones):
    rows = [{**row, "other": row["text"][::-1]} for row in ROWS]
    clf = BayesianClassifier(backbones["llama"], "none", dtype="float32", progress=False)
    clf.fit(rows, pair_column="other")
    assert clf.record.backbone["template"] == DEFAULT_PAIR_FRAME
    assert len(clf.predict(rows)) == len(rows)


def test_a_share_is_recorded_as_a_number_of_layers(backbones):
    assert fitted(backbones["llama"], depth=0.6).record.backbone["depth"] == 2


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


def test_a_pipeline_on_filled_pairs_gives_the_mean_networks_probabilities(backbones, tmp_path):
    rows = [{**row, "other": "{text} {text_pair}"} for row in ROWS]
    clf = BayesianClassifier(backbones["llama"], "none", "map", dtype="float32", progress=False)
    clf.fit(rows, pair_column="other").export_merged(tmp_path / "out")
    texts = [{"text": row["text"], "text_pair": row["other"]} for row in rows]
    check_listed_lines(tmp_path / "out", texts, clf.predict(rows, num_samples=0).probs)


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


def test_an_adapter_of_a_cut_backbone_says_how_many_layers_it_is_for(backbones, tmp_path):
    from peft import PeftModel

    clf = fitted(backbones["llama"])
    clf.export_peft(tmp_path / "out")
    note = (tmp_path / "out" / "README.md").read_text()
    assert "first 2 layers" in note
    assert FRAME in note
    base = AutoModel.from_pretrained(backbones["llama"], num_hidden_layers=2)
    assert "num_hidden_layers=2" in note.split("```")[1]
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    reader = AutoTokenizer.from_pretrained(backbones["llama"])
    encoder = clf.network.encoder
    expected = encoder.features(encoder.prepare(TEXTS))
    for place, text in enumerate(TEXTS):
        tokens = reader([FRAME.replace("{text}", text)], return_tensors="pt")
        with torch.no_grad():
            states = model(input_ids=tokens["input_ids"]).last_hidden_state
        torch.testing.assert_close(states[0, -1], expected[place], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"depth": 4}, {"template": "today the a"}, {"depth": 0}, {"max_length": 3}]
)
def test_what_cannot_be_read_is_refused(backbones, options):
    with pytest.raises(InputError):
        fitted(backbones["llama"], **options)


def test_another_depth_in_the_record_of_a_model_is_noticed(backbones, tmp_path):
    clf = fitted(backbones["llama"])
    clf.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "bayeslora.json"
    content = json.loads(path.read_text())
    del content["files"], content["sha256"]
    for depth in (3, 1, "2", 0):
        content["backbone"]["depth"] = depth
        path.write_text(json.dumps(content))
        with pytest.raises(InputError):
            BayesianClassifier.from_pretrained(tmp_path / "model")


def test_the_command_asks_the_language_model(backbones, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in ROWS))
    fit = ["fit", str(data), "--adapter", "lora:r=2", "--quiet", "--epochs", "1"]
    fit += ["--dtype", "float32", "--template", "{text} is"]
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
    for bad in ("animals", "=dog", "animals= ", "sports=goal", "animals=food"):
        assert main([*fit, *llama, "--verbaliser", bad, "--out", str(tmp_path / "bad")]) == 2
    for both in (["none", "names"], ["animals=dog", "animals=cat"]):
        options = [part for text in both for part in ("--verbaliser", text)]
        assert main([*fit, *llama, *options, "--out", str(tmp_path / "bad")]) == 2
    encoder = ["--backbone", backbones["bert"]]
    assert main([*fit, *encoder, *names, "--out", str(tmp_path / "bad")]) == 2
    assert not (tmp_path / "bad").exists()


def test_the_command_reads_the_same_way(backbones, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in ROWS))
    out = tmp_path / "model"
    fit = ["fit", str(data), "--backbone", backbones["llama"], "--adapter", "lora:r=2", "--quiet"]
    fit += ["--epochs", "1", "--dtype", "float32", "--out", str(out)]
    assert main([*fit, "--depth", "0.6", "--template", r"today\n{text} is"]) == 0
    record = json.loads((out / "bayeslora.json").read_text())
    assert record["backbone"]["depth"] == 2
    assert record["backbone"]["template"] == "today\n{text} is"
    auto = ["--depth", "auto", "--overwrite"]
    assert main([*fit, *auto]) == 0
    assert json.loads((out / "bayeslora.json").read_text())["backbone"].get("depth", 3) in (2, 3)
    for bad in (["--depth", "0"], ["--depth", "many"], ["--template", "today"]):
        assert main([*fit, *bad, "--overwrite"]) == 2
