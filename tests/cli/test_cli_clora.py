"""C-LoRA from the command line."""

import json

import numpy as np
import pytest

from bayeslora import BayesianClassifier, Predictions


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    from bayeslora.cli import main

    out = tmp_path_factory.mktemp("clora") / "model"
    options = ["--backbone", world.llama, "--adapter", "polar:r=2", "--epochs", 1, "--quiet"]
    fit = ["fit", world.train, "--validation", world.valid, "--posterior", "clora:num_hidden=8"]
    assert main([str(item) for item in (*fit, *options, "--out", out)]) == 0
    return out


def test_predict_with_the_mean_and_with_draws_gives_what_python_gives(run, world, model, tmp_path):
    clf = BayesianClassifier.from_pretrained(model, device="cpu", progress=False)
    for count in (0, 4):
        out = tmp_path / f"{count}.parquet"
        predict = ["predict", model, world.test, "--num-samples", count, "--seed", 2]
        assert run(*predict, "--device", "cpu", "--quiet", "--out", out).code == 0
        predictions = Predictions.load(out)
        expected = clf.predict(world.test, num_samples=count, seed=2)
        assert np.array_equal(predictions.probs, expected.probs)
        assert bool(predictions.epistemic.any()) is bool(count)
    record = json.loads((model / "bayeslora.json").read_text())
    assert set(record["results"]["posterior"]) == {"kl", "gate_change", "gate_std"}
    assert "- gate std: " in (model / "README.md").read_text()


def test_what_methods_says(run):
    methods = json.loads(run("methods", "--json").out)["posteriors"]
    entry = next(item for item in methods if item["name"] == "clora")
    assert entry["passes"] == "num_samples"
    assert entry["options"]["num_hidden"] == 64


def test_export_and_calibrate_say_why_they_cannot(refused, world, model, tmp_path):
    message = refused("export", model, "--out", tmp_path / "lora")
    assert "cannot be merged or exported" in message
    assert "depend on the input" in message
    calibrate = ["calibrate", model, world.valid, "--out", tmp_path / "out", "--quiet"]
    assert "gates of 'clora'" in refused(*calibrate, "--posterior", "laplace")


def test_a_wrong_option_is_refused(refused, world, tmp_path):
    fit = ["fit", world.train, "--backbone", world.llama, "--out", tmp_path / "out", "--posterior"]
    assert "num_hidden" in refused(*fit, "clora:num_hidden=0")
    assert "'cyclic', 'uniform'" in refused(*fit, "clora:kl_weights=half")
