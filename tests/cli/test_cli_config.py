"""Options from a YAML file."""

import json
import re
from pathlib import Path

import pytest
import yaml
from cli_files import write_rows

from bayeslora.cli import build_parser

METHODS = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a configuration file from a mapping or a string."""

    def write(content):
        path = tmp_path / "fit.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def test_a_file_holds_every_option(run, world, tmp_path, config):
    path = config(
        {
            "train": str(world.train),
            "validation": str(world.valid),
            "out": str(tmp_path / "m"),
            "backbone": str(world.llama),
            "adapter": {"name": "lora", "r": 2, "target_modules": ["q_proj"]},
            "posterior": {"name": "map", "prior_scale": 1.5},
            "epochs": 1,
            "batch-size": 8,
            "seed": 5,
            "max_length": 12,
            "text_pair_column": None,
        }
    )
    assert run("fit", "--config", path, "--quiet").code == 0
    record = json.loads((tmp_path / "m" / "bayeslora.json").read_text())
    assert (
        record["adapter"] | {"name": "lora", "r": 2, "target_modules": ["q_proj"]}
        == (record["adapter"])
    )
    assert record["posterior"]["prior_scale"] == 1.5
    assert record["training"]["batch_size"] == 8
    assert record["seed"] == 5
    assert record["max_length"] == 12


def test_the_file_of_the_docs_is_read_with_its_learning_rate(run, world, tmp_path, config):
    """YAML reads `2e-3` as text."""
    if not METHODS.is_file():
        pytest.skip("docs/ is not beside tests/")
    (block,) = re.findall(r"```yaml\n(.*?)```", METHODS.read_text(encoding="utf-8"), re.DOTALL)
    options = ["--validation", world.valid, "--out", tmp_path / "m", "--backbone", world.llama]
    few = ["--epochs", 1, "--max-length", 12, "--quiet"]
    assert run("fit", world.train, "--config", config(block), *options, *few).code == 0
    record = json.loads((tmp_path / "m" / "bayeslora.json").read_text())
    assert (record["adapter"]["r"], record["adapter"]["lr"]) == (4, 0.002)
    assert record["posterior"]["prior_scale"] == 2


def test_the_command_line_goes_before_the_file(run, world, tmp_path, config):
    path = config({"epochs": 7, "seed": 5, "posterior": "laplace", "backbone": str(world.llama)})
    fit = ["fit", world.train, "--config", path, "--out", tmp_path / "m", "--quiet"]
    assert run(*fit, "--epochs", 1, "--posterior", "map").code == 0
    record = json.loads((tmp_path / "m" / "bayeslora.json").read_text())
    assert record["training"]["epochs"] == 1
    assert record["posterior"]["name"] == "map"
    assert record["seed"] == 5


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"epoch": 3}, ["unknown option 'epoch'", "did you mean 'epochs'"]),
        ({"json": True}, ["unknown option 'json'"]),
        ({"epochs": "many"}, ["epochs", "integer >= 1", "'many'"]),
        ({"epochs": 2.5}, ["epochs", "2.5"]),
        ({"epochs": True}, ["epochs", "True"]),
        ({"epochs": [3]}, ["epochs", "[3]"]),
        ({"backbone": {"name": "minilm"}}, ["minilm"]),
        ({"dtype": "float17"}, ["dtype", "'float17'", "'float32'"]),
        ({"trust_remote_code": True}, ["trust_remote_code"]),
        ({"overwrite": "maybe"}, ["true or false"]),
        ({"adapter": {"r": 4}}, ["adapter"]),
        ({"adapter": {"name": "polar", "rank": 4}}, ["adapter 'polar'", "'rank'"]),
        ("- epochs\n", ["must be a mapping"]),
        ("epochs: [\n", ["cannot be read as YAML"]),
    ],
)
def test_wrong_files_are_refused(refused, tmp_path, config, content, parts):
    path = config(content)
    data = write_rows(
        tmp_path / "t.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    )
    message = refused("fit", data, "--out", tmp_path / "m", "--config", path)
    for part in parts:
        assert part in message


def test_every_option_has_a_key():
    args = build_parser().parse_args(["fit", "t"])
    assert set(args.actions) - {"help"} == set(vars(args)) - {"verb", "run", "actions"}
