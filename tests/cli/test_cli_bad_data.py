"""User errors: exit code 2, one or two lines, nothing written, no model loaded.

The backbone named here does not exist, so a message about the data proves that the data was
checked first.
"""

import json
import shutil

import pytest
from cli_files import DATA, GOOD, NOWHERE, write_rows


@pytest.mark.parametrize("case", DATA)
def test_training_data(refused, tmp_path, case):
    content, parts = DATA[case]
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    message = refused("fit", path, "--out", tmp_path / "m", "--backbone", NOWHERE)
    for part in parts:
        assert part in message


def test_a_row_of_csv_is_the_line_that_an_editor_shows(refused, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"two\nlines",x\n,y\n')
    message = refused("fit", path, "--out", tmp_path / "m", "--backbone", NOWHERE)
    assert "row 4" in message


def test_a_validation_label_that_training_lacks(refused, tmp_path):
    train = write_rows(tmp_path / "train.jsonl", [json.loads(line) for line in GOOD.splitlines()])
    valid = write_rows(tmp_path / "valid.jsonl", [{"text": "c", "label": "z"}])
    message = refused(
        *["fit", train, "--validation", valid, "--out", tmp_path / "m", "--backbone", NOWHERE]
    )
    for part in ("valid.jsonl", "row 1", "'label'", "'z'", "'x', 'y'"):
        assert part in message


FIT = {
    "extension": (["data.txt"], ["'.txt'", ".jsonl"]),
    "adapter": (["--adapter", "polr"], ["unknown --adapter 'polr'", "did you mean 'polar'"]),
    "adapter's option": (["--adapter", "polar:rank=4"], ["option of adapter polar", "'r'"]),
    "adapter's value": (["--adapter", "polar:r=0"], ["r", "0"]),
    "no value": (["--adapter", "polar:r"], ["key=value", "'r'"]),
    "posterior": (["--posterior", "vbl"], ["unknown --posterior 'vbl'", "did you mean 'vbll'"]),
    "prior scale": (["--posterior", "vbll:prior_scale=-1"], ["prior_scale", "-1"]),
    "temperature": (["--posterior", "temperature"], ["needs validation data"]),
    "task": (["--task", "sst3"], ["unknown --task 'sst3'", "'sst2'"]),
    "split": (["--task", "sst2_sentences"], ["unknown split of sst2 "]),
    "multiple choice": (["--task", "multiple-choice"], ["no column 'question'", "'text'"]),
    "column": (["--text-column", "sentence"], ["no column 'sentence'", "--text-column"]),
    "pair": (["--text-pair-column", "second"], ["no column 'second'", "--text-pair-column"]),
    "backbone": (["--backbone", "/nowhere/x"], ["/nowhere/x"]),
    "device": (["--set", "device=gpu"], ["device 'gpu' cannot be used"]),
}


@pytest.mark.parametrize("case", FIT)
def test_options_of_fit(refused, tmp_path, case):
    options, parts = FIT[case]
    train = tmp_path / "train.jsonl"
    train.write_text(GOOD)
    (tmp_path / "data.txt").write_text(GOOD)
    if case == "extension":
        train, options = tmp_path / "data.txt", []
    message = refused("fit", train, "--backbone", NOWHERE, "--out", tmp_path / "m", *options)
    for part in parts:
        assert part in message


def test_a_bad_option_does_not_cost_the_model_it_would_replace(refused, world, tmp_path):
    out = tmp_path / "m"
    shutil.copytree(world.model, out)
    fit = ["fit", world.train, "--out", out, "--overwrite", "--quiet"]
    refused(*fit, "--backbone", "/nowhere/x")
    refused(*fit, "--backbone", world.llama, "--posterior", "mc_dropout")
    contents = {file.name: file.read_bytes() for file in out.iterdir()}
    assert contents == {file.name: file.read_bytes() for file in world.model.iterdir()}


def test_an_out_that_exists(refused, world, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    message = refused("fit", world.train, "--out", tmp_path / "m", "--backbone", NOWHERE)
    for part in (str(tmp_path / "m"), "exists", "--overwrite"):
        assert part in message
