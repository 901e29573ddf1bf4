"""docs/acme-methods, the example of docs/extending.md: its laws, and its use by commands."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from packages import install_guide
from refusal import refused
from tiny import toy_rows

import bayeslora as bl
from bayeslora.cli import main

FROM = {"device": "cpu", "progress": False}
OPTIONS = {**FROM, "max_length": 32}


def fitted(backbone, posterior):
    classifier = bl.BayesianClassifier(backbone, "polar:r=4", posterior, **OPTIONS)
    return classifier.fit(toy_rows(24), toy_rows(12, seed=1), epochs=1, batch_size=8)


@pytest.fixture
def uninstall(acme, monkeypatch):
    """Return a function that uninstalls the package."""

    def take_away():
        for name in [name for name in sys.modules if name.startswith("acme_methods")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "path", [item for item in sys.path if item != str(acme)])

    return take_away


def test_the_example_inherits_the_laws_and_passes_them(tmp_path):
    """Run them in a separate process without our settings, as the author would."""
    tests = install_guide(tmp_path / "site")
    (tests / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    path = os.pathsep.join([str(tests.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 27


@pytest.mark.usefixtures("acme")
def test_names_options_and_objects_mean_the_same():
    from acme_methods.isotropic import Isotropic

    for value in (
        "isotropic:prior_scale=3",
        {"name": "isotropic", "prior_scale": 3},
        Isotropic(prior_scale=3),
    ):
        assert bl.BayesianClassifier(posterior=value).posterior == Isotropic(prior_scale=3)
    with refused("unknown", "'prior_scal'", "'prior_scale'"):
        bl.BayesianClassifier(posterior="isotropic:prior_scal=3")
    with refused("option", "prior_scale", "-1"):
        bl.BayesianClassifier(posterior="isotropic:prior_scale=-1")


def test_it_is_fitted_saved_and_loaded_until_its_package_is_gone(llama, uninstall, tmp_path):
    classifier = fitted(llama, "isotropic")
    predictions = classifier.predict(toy_rows(9, seed=8))
    assert predictions.epistemic.min() > 0
    assert classifier.record.versions["acme-methods"] == "1.0"
    classifier.save_pretrained(tmp_path / "model")
    loaded = bl.BayesianClassifier.from_pretrained(tmp_path / "model", device="cpu", progress=False)
    assert np.array_equal(loaded.predict(toy_rows(9, seed=8)).probs, predictions.probs)
    uninstall()
    with refused("unknown", "'isotropic'"):
        bl.BayesianClassifier.from_pretrained(tmp_path / "model", device="cpu")
    with refused("unknown", "'isotropic'", "'vbll'"):
        bl.BayesianClassifier(posterior="isotropic")


@pytest.mark.usefixtures("acme")
def test_a_fitted_classifier_is_calibrated_to_it(llama):
    classifier = fitted(llama, "map")
    assert classifier.predict(toy_rows(9, seed=8)).epistemic.max() == 0
    classifier.calibrate(
        toy_rows(24, seed=5), posterior="isotropic", feature_scores="unfamiliarity"
    )
    predictions = classifier.predict(toy_rows(9, seed=8))
    assert predictions.epistemic.min() > 0
    assert "unfamiliarity" in predictions.scores
    assert classifier.record.versions["acme-methods"] == "1.0"


def test_commands_fit_list_and_predict(llama, uninstall, tmp_path, capsys):
    train, model = tmp_path / "train.jsonl", tmp_path / "model"
    train.write_text("".join(f"{json.dumps(row)}\n" for row in toy_rows(24)))
    options = ["--backbone", llama, "--posterior", "isotropic:num_samples=3", "--epochs", "1"]
    assert main(["fit", str(train), *options, "--quiet", "--out", str(model)]) == 0
    record = json.loads((model / "bayeslora.json").read_text())
    assert record["posterior"]["num_samples"] == 3

    capsys.readouterr()
    assert main(["methods"]) == 0
    listed = capsys.readouterr()
    assert "Laplace approximation with one variance (acme-methods 1.0)" in " ".join(
        listed.out.split()
    )
    assert listed.err == ""
    assert main(["methods", "--json"]) == 0
    posteriors = {item["name"]: item for item in json.loads(capsys.readouterr().out)["posteriors"]}
    assert posteriors["isotropic"]["package"] == "acme-methods 1.0"
    assert posteriors["isotropic"]["options"]["prior_scale"] == 2.0
    assert posteriors["vbll"]["package"] == f"bayeslora {bl.__version__}"

    out = ["--out", str(tmp_path / "test.parquet"), "--quiet"]
    assert main(["predict", str(model), str(train), *out]) == 0
    uninstall()
    capsys.readouterr()
    assert main(["predict", str(model), str(train), *out, "--overwrite"]) == 2
    assert "unknown posterior 'isotropic'" in capsys.readouterr().err


def test_a_posterior_over_weights_goes_from_fit_to_report_by_commands(
    llama, uninstall, tmp_path, capsys
):
    train, model, report = (tmp_path / name for name in ("train.jsonl", "model", "report"))
    train.write_text("".join(f"{json.dumps(row)}\n" for row in toy_rows(24)))
    fit = ["fit", str(train), "--backbone", llama, "--adapter", "lora:r=2", "--epochs", "1"]
    chosen = ["--posterior", "noise:relative_std=0.5,num_samples=3"]
    assert main([*fit, *chosen, "--quiet", "--out", str(model)]) == 0
    record = json.loads((model / "bayeslora.json").read_text())
    assert record["results"]["posterior"]["num_noisy_weights"] > 0
    assert record["versions"]["acme-methods"] == "1.0"
    capsys.readouterr()
    assert main(["methods"]) == 0
    assert "relative size on the adapter (acme-methods 1.0)" in " ".join(
        capsys.readouterr().out.split()
    )

    file = tmp_path / "test.parquet"
    assert main(["predict", str(model), str(train), "--out", str(file), "--quiet"]) == 0
    assert bl.Predictions.load(file).metadata["passes"] == "3"
    assert main(["report", str(file), "--out", str(report), "--quiet"]) == 0
    assert "noise of a fixed relative size" in (report / "index.html").read_text()
    loaded = bl.BayesianClassifier.from_pretrained(model, **FROM)
    assert loaded.predict(toy_rows(9, seed=8)).epistemic.min() > 0
    assert loaded.predict(toy_rows(9, seed=8), num_samples=0).epistemic.max() == 0
    uninstall()
    with refused("unknown", "'noise'"):
        bl.BayesianClassifier.from_pretrained(model, **FROM)


@pytest.mark.usefixtures("acme")
def test_a_posterior_over_weights_is_given_to_a_finished_model_and_refused_without(llama):
    classifier = fitted(llama, "map")
    classifier.calibrate(toy_rows(24, seed=5), posterior="noise")
    assert classifier.predict(toy_rows(9, seed=8)).epistemic.min() > 0
    lone = bl.BayesianClassifier(llama, "none", "noise", **OPTIONS)
    with refused("no-adapter", "'noise'"):
        lone.fit(toy_rows(24))


@pytest.mark.parametrize("posterior", ["vbll:num_samples=20", "swag:num_samples=2"])
def test_an_adapter_is_fitted_saved_and_loaded_until_its_package_is_gone(
    llama, uninstall, tmp_path, posterior
):
    model = tmp_path / "model"
    classifier = bl.BayesianClassifier(llama, "fixed_first:r=2", posterior, **OPTIONS)
    classifier.fit(toy_rows(24), toy_rows(12, seed=1), epochs=1, batch_size=8, out=model)
    assert classifier.record.versions["acme-methods"] == "1.0"
    predictions = classifier.predict(toy_rows(9, seed=8))
    assert predictions.name == f"fixed_first-{posterior.partition(':')[0]}"
    assert any(site.norm > 0 for site in classifier.spectrum()[0])
    loaded = bl.BayesianClassifier.from_pretrained(model, **FROM)
    assert (loaded.adapter.name, loaded.adapter.r) == ("fixed_first", 2)
    assert np.array_equal(loaded.predict(toy_rows(9, seed=8)).probs, predictions.probs)
    uninstall()
    with refused("unknown", "'fixed_first'"):
        bl.BayesianClassifier.from_pretrained(model, **FROM)


def test_an_adapter_is_registered_for_a_session(llama, monkeypatch):
    from dataclasses import dataclass
    from typing import ClassVar

    from bayeslora.adapters import registry

    monkeypatch.setattr(registry.CATALOGUE, "registered", {})

    @dataclass(frozen=True)
    class Wide(bl.LoRA):
        name: ClassVar[str] = "wide_lora"
        r: int = 4

    with refused("option", "Wide", "register_adapter"):
        bl.BayesianClassifier(llama, Wide())
    assert bl.register_adapter(Wide) is Wide
    lone = bl.BayesianClassifier(llama, "wide_lora:alpha=8", "mle", **OPTIONS)
    assert lone.fit(toy_rows(24), epochs=1).record.adapter["alpha"] == 8.0
    with refused("package", "Adapter"):
        bl.register_adapter(dataclass(frozen=True)(type("Odd", (), vars_of("odd"))))


def test_a_recalibrator_is_listed_used_and_refused_without_its_package(uninstall, tmp_path, capsys):
    assert main(["methods", "--json"]) == 0
    recalibrators = {
        item["name"]: item for item in json.loads(capsys.readouterr().out)["recalibrators"]
    }
    assert recalibrators["uniform_mix"]["package"] == "acme-methods 1.0"
    assert recalibrators["uniform_mix"]["options"] == {"largest": 0.5}
    files = {}
    for seed, name in enumerate(("fit", "new")):
        files[name] = tmp_path / f"{name}.csv"
        drawn = np.random.default_rng(seed).random((200, 1)) < 0.7
        rows = [f"{name}{i},{'a' if is_a else 'b'},0.99,0.01" for i, (is_a,) in enumerate(drawn)]
        files[name].write_text("\n".join(["id,label,prob_a,prob_b", *rows]))
    out = tmp_path / "mixed.parquet"
    verb = ["recalibrate", "--fit", str(files["fit"]), "--apply", str(files["new"]), "--quiet"]
    assert main([*verb, "--method", "uniform_mix:largest=0.9", "--out", str(out)]) == 0
    mixed = bl.Predictions.load(out)
    assert mixed.metadata["recalibration"] == "uniform_mix"
    assert 0.2 < mixed.probs[:, 1].max() < 0.4
    uninstall()
    assert main([*verb, "--method", "uniform_mix", "--out", str(tmp_path / "x.csv")]) == 2


def vars_of(name):
    """Return class variables of a method that is not an adapter."""
    return {"name": name, "summary": "s", "source": ""}
