"""Model directories: complete, free of pickles, and refused if damaged."""

import dataclasses

import pytest
import torch
from refusal import refused
from tiny import tiny_tokenizer, without_hashes

from bayeslora.checkpoint import (
    ADAPTED,
    ModelFiles,
    ModelRecord,
    is_model,
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
        ('{"format_version": 99}', "has format version 99; this bayeslora reads up to"),
        ("{}", "has format version None"),
    ],
)
def test_a_damaged_record_is_named(model, content, message):
    path = model / "bayeslora.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_model(model)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
