"""Laplace over adapter weights from the command line."""

import json

import pytest
import torch
from foreign_models import saved_peft
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("beside_nothing")


def test_fit_predict_and_what_methods_says(run, world, tmp_path):
    posterior = "laplace_lora:structure=kron,prior_precision=marglik"
    result = run(
        *["fit", world.train, "--validation", world.valid, "--backbone", world.bert],
        *["--adapter", "lora:r=2", "--posterior", posterior, "--epochs", 1],
        *["--out", tmp_path / "model", "--quiet"],
    )
    assert result.code == 0, result.err
    predict = ["predict", tmp_path / "model", world.test, "--quiet", "--out"]
    assert run(*predict, tmp_path / "p.parquet", "--link", "probit").code == 0
    record = json.loads((tmp_path / "model" / "bayeslora.json").read_text())
    assert record["results"]["posterior"]["structure"] == "kron"
    methods = json.loads(run("methods", "--json").out)["posteriors"]
    entry = next(item for item in methods if item["name"] == "laplace_lora")
    assert entry["passes"] == "2, and one backward pass per class"
    assert entry["options"]["structure"] == "kron"


def test_calibrate_a_model_of_ours_keeps_its_weights(run, world, tmp_path):
    out = tmp_path / "again"
    calibrate = ["calibrate", world.model, world.train, "--validation", world.valid, "--out", out]
    result = run(*calibrate, "--posterior", "laplace_lora", "--json", "--quiet")
    assert result.code == 0, result.err
    content = json.loads(result.out)
    assert content["chosen"]["structure"] == "kron"
    assert content["before"] != content["after"]
    old, new = (load_file(path / "adapter.safetensors") for path in (world.model, out))
    assert all(torch.equal(old[name], new[name]) for name in old | new)
    assert run("predict", out, world.test, "--out", tmp_path / "p.parquet", "--quiet").code == 0


def test_a_foreign_classifier_is_refused(refused, world, tmp_path):
    calibrate = ["calibrate", world.classifier, world.train, "--out", tmp_path / "out"]
    message = refused(*calibrate, "--posterior", "laplace_lora")
    assert "posterior 'laplace_lora' is over the weights of an adapter" in message


def test_a_wrong_option_is_refused(refused, world, tmp_path):
    fit = ["fit", world.train, "--backbone", world.bert, "--out", tmp_path / "out", "--posterior"]
    assert "'kron'" in refused(*fit, "laplace_lora:structure=lowrank")
    assert "'marglik'" in refused(*fit, "laplace_lora:prior_precision=map")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("posterior", ["laplace_lora", "tfb:num_samples=2,num_steps=2"])
def test_over_the_adapters_of_a_checkpoint(run, world, tmp_path, posterior):
    path, _ = saved_peft("llama", tmp_path)
    out = tmp_path / "ours"
    options = ["--validation", world.valid, "--posterior", posterior, "--quiet", "--out", out]
    result = run("calibrate", path, world.train, *options)
    assert result.code == 0, result.err
    assert run("predict", out, world.test, "--out", tmp_path / "p.parquet", "--quiet").code == 0
    table = run("info", out, "--spectrum")
    assert table.code == 0, table.err
    assert "q_proj" in table.out
