"""User errors: exit code 2, one or two lines, nothing written, no model loaded.

The backbone named here does not exist, so a message about the data proves that the data was
checked first. Further cases are in `test_cli_wording.py`.
"""

import shutil

import pytest
from cli_files import GOOD, NOWHERE


def test_a_row_of_csv_is_the_line_that_an_editor_shows(refused, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"two\nlines",x\n,y\n')
    message = refused("fit", path, "--out", tmp_path / "m", "--backbone", NOWHERE)
    assert "row 4" in message


FIT = {
    "no value": (["--adapter", "polar:r"], ["key=value", "'r'"]),
    "split": (["--task", "sst2_sentences"], ["unknown split of sst2 "]),
    "multiple choice": (["--task", "multiple-choice"], ["no column 'question'", "'text'"]),
    "column": (["--text-column", "sentence"], ["no column 'sentence'", "--text-column"]),
    "pair": (["--text-pair-column", "second"], ["no column 'second'", "--text-pair-column"]),
    "device": (["--set", "device=gpu"], ["device 'gpu' cannot be used"]),
}


@pytest.mark.parametrize("case", FIT)
def test_options_of_fit(refused, tmp_path, case):
    options, parts = FIT[case]
    train = tmp_path / "train.jsonl"
    train.write_text(GOOD)
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
