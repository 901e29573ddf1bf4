"""Layer sampling from the command line."""

import json

import pytest

SMALL = ("--epochs", "1", "--batch-size", "16", "--max-length", "32", "--dtype", "float32")
LISA = "lisa:num_active=1,interval=2,num_layers=2,lr=1e-3"


def fit(run, world, tmp_path, *options):
    return run(
        "fit", world.train, "--out", tmp_path / "model", "--backbone", world.llama, "--quiet",
        "--posterior", "mle", *SMALL, *options,
    )  # fmt: skip


def test_whole_layers_from_fit_to_spectrum_and_export(run, world, tmp_path):
    result = fit(run, world, tmp_path, "--adapter", LISA)
    assert result.code == 0, result.err
    shown = run("info", tmp_path / "model", "--spectrum")
    assert shown.code == 0, shown.err
    assert "stable rank" in shown.out
    members = json.loads(run("info", tmp_path / "model", "--spectrum", "--json").out)["members"]
    assert len(members[0]) in {6, 7, 12, 14}
    assert all(site["norm"] > 0 for site in members[0])
    refused = run("export", tmp_path / "model", "--out", tmp_path / "peft")
    assert refused.code == 2
    assert "--format merged, safetensors" in refused.err
    merged = run("export", tmp_path / "model", "--format", "merged", "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    done = run("predict", tmp_path / "model", world.test, "--out", tmp_path / "p.csv", "--quiet")
    assert done.code == 0, done.err


def test_sampling_over_an_adapter_from_options_and_from_a_file(run, world, tmp_path):
    config = tmp_path / "fit.yaml"
    config.write_text(
        "adapter: {name: lora, r: 2, num_layers: 2}\n"
        "layer_sampling: {num_active: 1, mode: weighted, weights: [1, 3]}\n"
    )
    result = fit(run, world, tmp_path, "--config", config, "--json")
    assert result.code == 0, result.err
    sampling = json.loads(result.out)["layer_sampling"]
    assert len(sampling["layers"]) == 2
    assert all(len(block) == 1 for block in sampling["blocks"])
    record = json.loads((tmp_path / "model" / "bayeslora.json").read_text())
    assert record["training"]["layer_sampling"]["weights"] == [1, 3]
    result = fit(
        run, world, tmp_path / "two", "--adapter", "lora:r=2,num_layers=2",
        "--layer-sampling", "num_active=1,interval=2,mode=cycle",
    )  # fmt: skip
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layer-sampling", "num_active=0"), "num_active must be"),
        (("--layer-sampling", "num_active"), "expected key=value, got 'num_active'"),
        (("--adapter", "lisa:r=4"), "unknown option of adapter lisa 'r'"),
        (("--adapter", LISA, "--layer-sampling", "num_active=1"), "by its own options"),
        (("--adapter", LISA, "--posterior", "tfb"), "cannot be combined with adapter 'lisa'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(run, world, tmp_path, options, message):
    result = fit(run, world, tmp_path, *options)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "model").exists()


def test_methods_lists_both(run):
    content = json.loads(run("methods", "--json").out)
    lisa = next(item for item in content["adapters"] if item["name"] == "lisa")
    assert lisa["options"]["num_active"] == 2
    assert lisa["parameters"] == "all layers that are drawn"
    assert "2403.17919" in lisa["source"]
    (sampling,) = content["layer_sampling"]
    assert set(sampling["options"]) < set(lisa["options"])
