"""PiSSA and CorDA from the command line."""

import json

import pytest


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_corda_keeps_what_a_file_of_texts_needs(run, world, tmp_path):
    texts = tmp_path / "generic.jsonl"
    texts.write_text("".join(json.dumps({"text": f"the cat is {n}"}) + "\n" for n in "abcdef"))
    config = tmp_path / "fit.yaml"
    config.write_text(
        f"adapter: {{name: corda, r: 4, mode: kpm, context: {texts}}}\n"
        f"backbone: {world.llama}\nepochs: 1\nposterior: mle\n"
    )
    result = run("fit", world.train, "--config", config, "--quiet", "--out", tmp_path / "model")
    assert result.code == 0, result.err
    adapter = json.loads(run("info", tmp_path / "model", "--json").out)["adapter"]
    assert adapter["mode"] == "kpm"
    assert adapter["context"].startswith("6 texts, sha256 ")
    done = run("predict", tmp_path / "model", world.test, "--out", tmp_path / "p.parquet")
    assert done.code == 0, done.err


@pytest.mark.usefixtures("terminal")
def test_the_bar_of_the_context_is_on_stderr(run, world, tmp_path):
    options = ("--adapter", "corda:r=2", "--posterior", "mle", "--epochs", 1)
    result = run("fit", world.train, "--backbone", world.llama, *options, "--out", tmp_path / "m")
    assert result.code == 0
    assert "context: 100%" in result.err


@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        ("pissa:niter=x", ["niter must be"]),
        ("corda:mode=kpm", ["mode 'kpm'", "context=FILE"]),
        ("corda:context=/nowhere.jsonl", ["/nowhere.jsonl"]),
        ("corda:mode=imp", ["did you mean 'ipm'"]),
    ],
)
def test_options_are_checked_before_anything_is_loaded(refused, world, tmp_path, adapter, parts):
    fit = ("fit", world.train, "--backbone", "/nowhere/backbone", "--out", tmp_path / "model")
    message = refused(*fit, "--adapter", adapter)
    for part in parts:
        assert part in message
