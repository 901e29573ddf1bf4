"""S²FT from the command line."""

import json

import pytest
import tiny


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.usefixtures("terminal")
def test_from_the_fit_to_predictions_spectrum_and_exports(run, world, tmp_path):
    adapter = "s2ft:o_ratio=0.052,d_ratio=0.02,selection=activation"
    model = tmp_path / "model"
    options = ("--adapter", adapter, "--posterior", "mle", "--epochs", 1, *tiny.WHOLE_AND_RAW_ARGS)
    result = run("fit", world.train, "--backbone", world.llama, *options, "--out", model)
    assert result.code == 0, result.err
    assert "context: 100%" in result.err
    info = json.loads(run("info", model, "--json").out)["adapter"]
    assert info["name"] == "s2ft"
    assert info["selection"] == "activation"
    assert run("predict", model, world.test, "--out", tmp_path / "p.parquet").code == 0
    # One head of twelve and one channel of seventy-two; most layers have no column.
    figure = tmp_path / "spectrum.svg"
    table = run("info", model, "--spectrum", "--figure", figure)
    assert table.code == 0, table.err
    assert len(table.out.splitlines()) == 7
    assert "2 of 6 layers changed" in figure.read_text()
    (sites,) = json.loads(run("info", model, "--spectrum", "--json").out)["members"]
    assert sorted(len(site["singular_values"]) for site in sites) == [0, 0, 0, 0, 1, 4]
    for form in ("peft", "merged"):
        out = tmp_path / form
        assert run("export", model, "--format", form, "--out", out).code == 0


def test_the_adapter_is_listed_with_its_options(run):
    listed = json.loads(run("methods", "--json").out)["adapters"]
    (entry,) = [item for item in listed if item["name"] == "s2ft"]
    assert "2412.06289" in entry["source"]
    assert entry["options"]["selection"] == "random"


@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        ("s2ft:o_ratio=2", ["o_ratio must be a number from 0 to 1, got 2"]),
        ("s2ft:o_ratio=0,d_ratio=0", ["o_ratio and d_ratio are both 0"]),
        ("s2ft:selection=activations", ["did you mean 'activation'"]),
        ("s2ft:r=8", ["unknown option of adapter s2ft", "'o_ratio'"]),
    ],
)
def test_options_are_checked_before_anything_is_loaded(refused, world, tmp_path, adapter, parts):
    fit = ("fit", world.train, "--backbone", "/nowhere/backbone", "--out", tmp_path / "model")
    message = refused(*fit, "--adapter", adapter)
    for part in parts:
        assert part in message


def test_a_posterior_over_factors_is_refused(refused, world, tmp_path):
    fit = ("fit", world.train, "--backbone", world.llama, "--out", tmp_path / "model")
    message = refused(*fit, "--adapter", "s2ft", "--posterior", "tfb")
    assert "'tfb'" in message
    assert "low-rank factors" in message
