"""Model directories: complete, free of pickles, and refused if damaged."""

import dataclasses
import json
import os
import stat

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer, without_hashes

from bayeslora import checkpoint
from bayeslora.checkpoint import (
    ADAPTED,
    FORMAT_VERSION,
    ModelFiles,
    ModelRecord,
    is_model,
    library_versions,
    read_model,
    read_record,
    write_model,
)
from bayeslora.errors import InputError


def record(**changes):
    values = {
        "backbone": {"name": "x", "fingerprint": "abc", "kind": ADAPTED, "dtype": "auto"},
        "adapter": {"name": "lora", "r": 2, "target_modules": None},
        "posterior": {"name": "vbll", "prior_scale": "auto"},
        "classes": ["größe", "b"],
        "columns": {"text": "text", "label": "label", "pair": None},
        "max_length": 32,
        "seed": 3,
        "num_train": 30,
        "head": {"fitted": False},
        "training": {"epochs": 2},
        "results": {"best_epoch": 1, "history": [{"epoch": 1, "loss": 0.1 + 0.2}]},
    }
    return ModelRecord(**values | changes)


def files(**changes):
    generator = torch.Generator().manual_seed(0)
    return ModelFiles(
        record(**changes),
        {"adapter.q.A": torch.randn(2, 4, generator=generator)},
        {
            "head.mean": torch.randn(2, 4, generator=generator, dtype=torch.float64),
            "feature_scale": torch.tensor(1.5),
        },
    )


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "model", files(), tokenizer=tiny_tokenizer(), card="# A card\n")
    return tmp_path / "model"


@pytest.fixture
def old_model(model):
    """Return a directory as written by versions without hashes."""
    return without_hashes(model)


def test_what_was_written_is_read_back(model):
    loaded = read_model(model)
    assert loaded.record == files().record
    for name, tensor in {**files().adapter, **files().posterior}.items():
        again = {**loaded.adapter, **loaded.posterior}[name]
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)
    assert loaded.fingerprint == files().fingerprint
    assert read_record(model) == files().record
    assert is_model(model)


def test_nothing_is_pickled(model):
    names = {path.name for path in model.iterdir()}
    assert names == {
        "README.md",
        "adapter.safetensors",
        "bayeslora.json",
        "posterior.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    # A pickle starts with its protocol, a zip archive (torch.save) with its signature.
    for path in model.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK"))
    assert (model / "README.md").read_text() == "# A card\n"


def test_all_files_have_the_mode_of_new_ones(tmp_path):
    before = os.umask(0o022)
    try:
        write_model(tmp_path / "model", files(), tokenizer=tiny_tokenizer(), card="")
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()
    }
    assert set(modes.values()) == {0o644}, modes


def test_the_versions_of_the_libraries_are_kept(model):
    content = json.loads((model / "bayeslora.json").read_text())
    assert content["versions"] == library_versions()
    assert content["versions"].keys() == {
        "python",
        "bayeslora",
        "torch",
        "transformers",
        "pyro-ppl",
        "numpy",
    }
    assert content["format_version"] == FORMAT_VERSION


def test_an_existing_directory_is_refused_and_kept(model):
    with refused("exists", "model"):
        write_model(model, files(seed=9), tokenizer=tiny_tokenizer(), card="")
    assert read_record(model).seed == 3
    write_model(model, files(seed=9), tokenizer=tiny_tokenizer(), card="", overwrite=True)
    assert read_record(model).seed == 9


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_model(
            tmp_path / "model",
            files(results={"loss": float("nan")}),
            tokenizer=tiny_tokenizer(),
            card="",
        )
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_is_that_of_tensors_and_backbone():
    first = files().fingerprint
    assert len(first) == 32
    assert files(seed=4).fingerprint == first
    other = {"name": "x", "fingerprint": "other", "kind": ADAPTED, "dtype": "auto"}
    assert files(backbone=other).fingerprint != first
    base = files()
    moved = {**base.posterior, "head.mean": base.posterior["head.mean"] + 1e-12}
    assert dataclasses.replace(base, posterior=moved).fingerprint != first
    renamed = {"adapter.q.B": base.adapter["adapter.q.A"]}
    assert dataclasses.replace(base, adapter=renamed).fingerprint != first
    shaped = {"adapter.q.A": base.adapter["adapter.q.A"].view(4, 2)}
    assert dataclasses.replace(base, adapter=shaped).fingerprint != first


@pytest.mark.parametrize("name", ["adapter.safetensors", "posterior.safetensors"])
def test_missing_and_truncated_tensors_are_named(old_model, name):
    path = old_model / name
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) - 3):
        path.write_bytes(whole[:size])
        with refused("damaged") as caught:
            read_model(old_model)
        assert str(path) in str(caught.value)
    path.unlink()
    with refused("damaged", name):
        read_model(old_model)


def test_a_directory_of_something_else_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with refused("input", "bayeslora.json"):
            read_model(folder)
        assert not is_model(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "is not a bayeslora model record: it has no format_version"),
        ("{}", "is not a bayeslora model record: it has no format_version"),
        ('{"format_version": 99}', "has format version 99; this bayeslora reads up to"),
        ('{"format_version": "1"}', "has format version '1'"),
        ('{"format_version": 0}', "has format version 0"),
        ('{"format_version": -1}', "has format version -1"),
        ('{"format_version": true}', "has format version True"),
        ('{"format_version": 1}', "is damaged: 'backbone'"),
    ],
)
def test_a_damaged_record_is_named(model, content, message):
    path = model / "bayeslora.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_model(model)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        field.name
        for field in dataclasses.fields(ModelRecord)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ],
)
def test_every_missing_part_is_named(old_model, name):
    path = old_model / "bayeslora.json"
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    with refused("damaged", f"'{name}'"):
        read_model(old_model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", {}),
        ("backbone", "smollm2"),
        ("posterior", None),
        ("posterior", {}),
        ("columns", {"text": "text"}),
        ("classes", "ab"),
        ("classes", ["a"]),
        ("classes", [1, 2]),
        ("classes", ["a", "b", "a"]),
        ("columns", {"text": 1, "label": "label", "pair": None}),
        ("columns", {"text": "text", "label": None, "pair": None}),
        ("columns", {"text": "text", "label": "label", "pair": ["pair"]}),
        ("max_length", "32"),
        ("max_length", 0),
        ("num_members", 0),
        ("num_members", 1.5),
        ("seed", None),
        ("head", []),
        ("results", "none"),
    ],
)
def test_parts_of_the_wrong_kind_are_named(old_model, name, value):
    path = old_model / "bayeslora.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, name: value}))
    with refused("damaged", f"'{name}'") as caught:
        read_model(old_model)
    assert str(path) in str(caught.value)


def test_newer_fields_of_the_same_format_are_passed_over(old_model):
    path = old_model / "bayeslora.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "new_field": 1}))
    assert read_record(old_model) == files().record


def test_an_empty_adapter_is_no_damage(tmp_path):
    bare = dataclasses.replace(files(), adapter={})
    write_model(tmp_path / "model", bare, tokenizer=tiny_tokenizer(), card="")
    assert read_model(tmp_path / "model").adapter == {}


def test_tensors_from_elsewhere_are_read_as_they_are(old_model):
    """The network decides which tensors belong to it; reading a file does not change them."""
    path = old_model / checkpoint.ADAPTER
    tensors = load_file(path)
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    assert set(read_model(old_model).adapter) == {"adapter.q.A", "extra"}
