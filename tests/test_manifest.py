"""Model directories verify their files: any change that affects a prediction is detected."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused
from safetensors.torch import load_file, save_file
from test_checkpoint import files
from tiny import tiny_tokenizer

from bayeslora.checkpoint import read_model, record_hash, verify_model, write_model
from bayeslora.cli import main

LISTED = ["adapter.safetensors", "posterior.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    write_model(folder / "model", files(), tokenizer=tiny_tokenizer(), card="# A card\n")
    other = files()
    for tensor in (*other.adapter.values(), *other.posterior.values()):
        tensor.mul_(2)
    write_model(folder / "other", other, tokenizer=tiny_tokenizer(), card="")
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return Path(shutil.copytree(saved / "model", tmp_path / "model"))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def change_record(model, **changes):
    path = model / "bayeslora.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def permute_words(model):
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = dict(zip(words, reversed(words.values()), strict=True))
    path.write_text(json.dumps(content))


def add_tensor(path):
    save_file({**load_file(path), "extra": torch.zeros(1)}, path)


def replace_by(path, make):
    path.unlink()
    make(path)


HARMS = {
    "flipped at the start": lambda path: flip(path, 9),
    "flipped at the end": lambda path: flip(path, -3),
    "truncated": lambda path: os.truncate(path, 40),
    "missing": Path.unlink,
    "a directory": lambda path: replace_by(path, Path.mkdir),
}
# The file that the message must name, and the change of the model directory.
MUTATIONS = {
    **{
        f"{name} {harm}": (name, lambda m, name=name, harm=harm: HARMS[harm](m / name))
        for name in LISTED
        for harm in HARMS
    },
    "permuted tokenizer": ("tokenizer.json", permute_words),
    "extra tensor": ("posterior.safetensors", lambda m: add_tensor(m / "posterior.safetensors")),
    "permuted classes": ("bayeslora.json", lambda m: change_record(m, classes=["b", "größe"])),
    "max_length": ("bayeslora.json", lambda m: change_record(m, max_length=31)),
    "posterior": ("bayeslora.json", lambda m: change_record(m, posterior={"name": "mle"})),
    "further key": ("bayeslora.json", lambda m: change_record(m, more=1)),
    "no list": ("bayeslora.json", lambda m: change_record(m, files=None)),
}


@pytest.mark.parametrize("case", MUTATIONS)
def test_a_changed_directory_is_refused(model, case):
    name, harm = MUTATIONS[case]
    harm(model)
    with refused("damaged", name):
        read_model(model)
    if name == "bayeslora.json":
        with refused("damaged", name):
            verify_model(model)
    else:
        (wrong,) = [item for item in verify_model(model) if item.state in ("changed", "missing")]
        assert wrong.name == name


@pytest.mark.parametrize("name", LISTED[:2])
def test_tensors_of_another_fit_are_refused(saved, model, name):
    shutil.copy(saved / "other" / name, model / name)
    with refused("damaged", name):
        read_model(model)


def test_files_that_no_prediction_depends_on_may_change(model):
    (model / "README.md").write_text("# Another card\n")
    (model / "notes.txt").write_text("mine")
    (model / "checkpoints" / "one").mkdir(parents=True)
    (model / "checkpoints" / "one" / "tokenizer.json").write_text("{}")
    assert read_model(model).fingerprint == files().fingerprint
    states = {item.name: item.state for item in verify_model(model)}
    assert states.pop("notes.txt") == states.pop("checkpoints/one/tokenizer.json") == "not listed"
    assert states == dict.fromkeys(["bayeslora.json", *LISTED], "ok")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(content=st.dictionaries(st.text(), JSON, max_size=4), key=st.text(), value=JSON)
def test_the_hash_of_a_record_sees_every_value_and_no_layout(content, key, value):
    digest = record_hash(content)
    again = json.loads(json.dumps(dict(reversed(content.items())), indent=1))
    assert record_hash({**again, "sha256": digest}) == digest
    if key != "sha256" and json.dumps(content.get(key, "\0")) != json.dumps(value):
        assert record_hash({**content, key: value}) != digest


def test_info_verifies(model, capsys):
    assert main(["info", str(model), "--verify"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ["bayeslora.json", *LISTED])
    flip(model / "posterior.safetensors", -1)
    assert main(["info", str(model), "--verify", "--json"]) == 2
    printed = capsys.readouterr()
    assert "posterior.safetensors" in printed.err
    states = {item["name"]: item["state"] for item in json.loads(printed.out)["files"]}
    assert states == dict.fromkeys(["bayeslora.json", *LISTED], "ok") | {
        "posterior.safetensors": "changed"
    }
    assert main(["info", "--verify"]) == 2
