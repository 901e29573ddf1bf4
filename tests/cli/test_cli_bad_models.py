"""Damaged models, and data that a model cannot read: one or two lines, nothing written."""

import json
import shutil

import pytest
import tiny
from cli_files import GOOD, NOWHERE
from safetensors.torch import load_file, save_file


@pytest.fixture
def model(world, tmp_path):
    """Return a copy of a model whose backbone cannot be found."""
    copy = tmp_path / "model"
    shutil.copytree(world.model, copy)
    change_record(copy, lambda record: record["backbone"].update(name=NOWHERE))
    return copy


def change_record(model, change):
    tiny.without_hashes(model)
    record = json.loads((model / "bayeslora.json").read_text())
    change(record)
    (model / "bayeslora.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"txet": "a"}\n', ["no column 'text'", "--text-column"]),
        (GOOD + '{"text": " "}\n', ["row 3", "'text'", "blank"]),
        (GOOD, ["'label'", "'x'", "'animals'"]),
    ],
)
def test_data_to_predict(refused, model, tmp_path, content, parts):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    message = refused("predict", model, path, "--out", tmp_path / "p.parquet")
    for part in parts:
        assert part in message


def flip(path):
    content = bytearray(path.read_bytes())
    content[:8] = b"\xff" * 8
    path.write_bytes(bytes(content))


def misshape(path):
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name].new_zeros(3, 3, 3)}, path)


def lose(path):
    tensors = load_file(path)
    save_file({name: tensors[name] for name in sorted(tensors)[1:]}, path)


DAMAGE = {
    "no record": (lambda m: (m / "bayeslora.json").unlink(), ["is not a bayeslora model"]),
    "no JSON": (lambda m: (m / "bayeslora.json").write_text("{"), ["cannot be read as JSON"]),
    "foreign": (lambda m: (m / "bayeslora.json").write_text("{}"), ["has format version None"]),
    "broken": (lambda m: flip(m / "posterior.safetensors"), ["posterior.safetensors", "damaged"]),
    "misshapen": (lambda m: misshape(m / "adapter.safetensors"), ["got [3, 3, 3]"]),
    "incomplete": (lambda m: lose(m / "posterior.safetensors"), ["tensors do not match"]),
    "other backbone": (
        lambda m: change_record(m, lambda record: record["backbone"].update(fingerprint="0" * 32)),
        ["backbone", "0" * 32],
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_models(refused, world, tmp_path, case):
    harm, parts = DAMAGE[case]
    model = tmp_path / "model"
    shutil.copytree(world.model, model)
    tiny.without_hashes(model)
    harm(model)
    message = refused("predict", model, world.test, "--out", tmp_path / "p.parquet", "--quiet")
    for part in parts:
        assert part in message


CALIBRATE = {
    "no model": (["/nowhere/model", "{train}"], ["/nowhere/model"]),
    "no classifier": (["{llama}", "{train}"], ["not a fine-tuned sequence classifier"]),
    "no data": (["{classifier}", "/nowhere.jsonl"], ["/nowhere.jsonl does not exist"]),
    "posterior": (
        ["{classifier}", "{train}", "--posterior", "ensemble"],
        ["posterior 'ensemble'", "finished network"],
    ),
    "layer of ours": (["{model}", "{train}", "--layer", "score"], ["layer is fixed"]),
    "classes of ours": (["{model}", "{train}", "--classes", "a,b"], ["classes is fixed"]),
    "length of ours": (["{model}", "{train}", "--set", "max_length=9"], ["max_length is fixed"]),
}


@pytest.mark.parametrize("case", CALIBRATE)
def test_calibrate(refused, world, tmp_path, case):
    options, parts = CALIBRATE[case]
    words = [word.format(**vars(world)) for word in options]
    message = refused("calibrate", *words, "--out", tmp_path / "m", "--quiet")
    for part in parts:
        assert part in message
